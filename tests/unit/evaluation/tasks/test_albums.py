"""Questions about several images by group, and what asking again brings and costs."""

import json
from pathlib import Path

import pytest

from lookonce_evaluation.album_methods import FullPass, JoinedContexts
from lookonce_evaluation.data.image_set import ImageSet
from lookonce_evaluation.tasks import albums
from lookonce_evaluation.tasks.albums import COMPARING, SINGLE, fallback_rows, group_questions
from lookonce_scenes.questions import Question

ONE, SAME = Question("one color", "?", "red"), Question("same", "?", "Yes")
SETS = [ImageSet("a", [None] * 2, [ONE, SAME], []), ImageSet("b", [None] * 4, [SAME, SAME], [])]
METHODS = [FullPass(), JoinedContexts("joined", 0.05, "coverage")]


def column(right, margins, computed) -> dict:
    return {"right": right, "margins": margins, "computed": [computed] * 2}


RECORDS = [  # by set: of the full pass, and of the joined contexts
    [column([1, 1], [9.0, 9.0], 100), column([1, 0], [5.0, 0.5], 10)],
    [column([1, 0], [9.0, 9.0], 300), column([0, 1], [4.0, 2.0], 10)],
]


def test_questions_are_grouped_by_kind_category_and_number_of_images():
    groups = group_questions(SETS)
    assert groups["kinds"] == {SINGLE: [[0], []], COMPARING: [[1], [0, 1]]}
    assert groups["categories"] == {"same": [[1], [0, 1]], "one color": [[0], []]}
    assert groups["sizes"] == {
        "comparing, of 2": [[1], []], "one image, of 2": [[0], []], "comparing, of 4": [[], [0, 1]]
    }  # fmt: skip


def test_asking_again_takes_the_full_passes_answer_and_costs_its_tokens():
    rows = fallback_rows(METHODS, RECORDS, group_questions(SETS)["kinds"], margin=3.0)
    never, default = rows[0], rows[1]
    assert (never["again"], never["computed"]) == (0.0, 10.0)
    assert never["groups"][COMPARING]["percent"] == pytest.approx(100 / 3)
    # The two below 3.0: one was wrong and the full pass is right, one was right and the full pass is wrong.
    assert (default["again"], default["computed"]) == (0.5, 10 + (100 + 300) / 4)
    assert default["groups"][SINGLE]["percent"] == 100
    assert default["groups"][COMPARING]["percent"] == pytest.approx(100 / 3)
    assert default["groups"][COMPARING]["of full pass"]["value"] == 50
    assert rows[2]["chosen"] == "5% of the questions"


def test_a_small_evaluation_from_end_to_end(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(
        albums, "album_methods", lambda _, selection: [FullPass(), JoinedContexts("joined", 0.05, selection)]
    )
    albums.main(["--images", "2", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["albums"] == 2
    assert [row["name"] for row in result["rows"]] == ["full pass", "joined"]
    assert set(result["rows"][1]["groups"]) >= {SINGLE, COMPARING}
    for name in ("table.md", "fallback.md", "categories.md", "sizes.md"):
        lines = (tmp_path / name).read_text().splitlines()
        assert len({line.count("|") for line in lines}) == 1
        assert len(lines) > 3
