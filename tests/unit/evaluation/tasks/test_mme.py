"""MME's files are read in both forms, and give the accuracies that the same scenes have by exact grading."""

import json
import shutil

import pyarrow
import pyarrow.parquet
import pytest
import torch

from lookonce_evaluation import cli
from lookonce_evaluation.data.folder import is_picture
from lookonce_evaluation.data.mme import COGNITION, PERCEPTION, Entry, read_mme, spread
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.methods import Context, FullPass, ImageRun
from lookonce_evaluation.metrics.grading import grade_exactly, grade_first_words
from lookonce_evaluation.metrics.mme import Outcomes
from lookonce_evaluation.tasks.mme import groups
from lookonce_server.images.decode import ImageLimits

from .mme_files import write_folders, write_parquet

CASES = held_out(2, 600_000_100)
ARGUMENTS = ["mme", "--retentions", "0.05", "--window", "middle"]  # and not the profile's
IMAGES = 6


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("folders"), CASES)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("parquet"), CASES)


def asked(entries):
    return {entry.name: entry.pairs for entry in entries}


def test_both_forms_hold_the_same(folders, parquet):
    entries = read_mme(folders)
    assert asked(entries) == asked(read_mme(parquet))
    expected = {f"{c}/{case.name}.png": {c: pair} for case in CASES for c, pair in case.pairs.items()}
    assert {name: _texts(pairs) for name, pairs in asked(entries).items()} == {
        n: _texts(p) for n, p in expected.items()
    }
    pictures = {case.name: case.image for case in CASES}
    for entry in [*entries, *read_mme(parquet)]:
        shown = entry.case(ImageLimits())
        assert shown.image.tobytes() == pictures[entry.name.split("/")[1].removesuffix(".png")].tobytes()


def _texts(pairs):
    return [(q.text, q.answer) for pair in pairs.values() for q in pair]


def test_a_few_are_of_every_category(folders):
    entries = read_mme(folders)
    categories = {category for entry in entries for category in entry.pairs}
    few = spread(entries, len(categories))
    assert {category for entry in few for category in entry.pairs} == categories
    assert few == [entry for entry in entries if entry in few]
    assert spread(entries, 1000) == entries


@pytest.fixture(scope="module")
def result(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert cli.evaluate([*ARGUMENTS, "--data", str(folders), "--out", str(out), "--images", str(IMAGES)]) == 0
    return out


def test_the_scores_are_those_of_exact_grading(model, result, folders, settings):
    """The first word says what the whole answer says, for every question; hence the accuracies are the same."""
    window = model.window(settings.window)
    scored = ((window.start, window.stop), settings.rows)
    methods = (FullPass(), Context("", 0.05, settings.selection, *scored), Context("", 0.0, "attention", *scored))
    exact = [Outcomes() for _ in methods]
    for entry in spread(read_mme(folders), IMAGES):
        case = entry.case(ImageLimits())
        run = ImageRun(model, case)
        for method, outcomes in zip(methods, exact, strict=True):
            with torch.inference_mode():
                cache = method.prepare(run)
                right = grade_exactly(model, cache, case.questions).right
                assert grade_first_words(model, cache, case.questions) == right
            outcomes.add(case, right)
    groups = json.loads((result / "result.json").read_text())["groups"].values()
    for row, outcomes in enumerate(exact):
        for kind in ("acc", "acc+"):
            found = {c: share for rows in groups for c, share in rows[row][kind]["by category"].items()}
            assert found == outcomes.by_category(kind)
    assert exact[0].percent("acc") > exact[2].percent("acc")


def test_the_parquet_form_gives_the_same_records(parquet, result, tmp_path):
    assert cli.evaluate([*ARGUMENTS, "--data", str(parquet), "--out", str(tmp_path), "--images", "2"]) == 0
    head, *records = (tmp_path / "records.jsonl").read_text().splitlines()
    all_head, *all_records = (result / "records.jsonl").read_text().splitlines()
    assert head == all_head
    assert len(records) == 2
    assert {*records} < {*all_records}


def test_the_table_has_the_groups_and_their_scores(result):
    table = (result / "table.md").read_text()
    rows = json.loads((result / "result.json").read_text())["groups"]
    assert list(rows) == ["perception", "other"]  # of the seven categories of scenes four are called as MME's are
    assert "Perception, 4 categories:" in table
    assert "score of 800" in table
    full = rows["perception"][0]
    score = sum(full["acc"]["by category"].values()) + sum(full["acc+"]["by category"].values())
    assert f"| {score:.1f} |" in table
    assert [(row["name"], row["retention"]) for row in rows["other"]] == [
        ("full pass", None),
        ("coverage", 0.05),
        ("query only", 0.0),
    ]


def test_mmes_own_groups():
    found = groups([Entry(c, {c: ()}, bytes, {}) for c in (*COGNITION, "mine", *PERCEPTION)])
    assert found == {"perception": [*PERCEPTION], "cognition": [*COGNITION], "other": ["mine"]}
    assert len(PERCEPTION) == 10
    assert len(COGNITION) == 4


def broken(folders, tmp_path, change):
    """The folders with one thing changed."""
    root = tmp_path / "mme"
    shutil.copytree(folders, root)
    change(root, next(root.glob("*/*/*.txt")))
    return root


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root, text: text.unlink(), "has no questions; expected them in .*txt"),
        (lambda root, text: text.write_text("Is it?\tYes\nIs it not?\tMaybe\n"), "line 2: expected .* not .*'Maybe'"),
        (lambda root, text: text.write_text("Is it? Yes\n"), "line 1: expected a question and the answer"),
        (lambda root, text: text.write_text("Is it?\tYes\n"), "expected two questions, found 1"),
        (lambda root, text: text.write_text("\n"), "expected two questions, found 0"),
        (
            lambda root, text: [f.unlink() for f in root.rglob("*") if is_picture(f)],
            "--data .* expected a folder a cat",
        ),
        (lambda root, text: (root / "a.parquet").write_bytes(b"no"), "a.parquet: no Parquet file"),
        (
            lambda root, text: pyarrow_table(root / "a.parquet", {"question_id": ["1"], "image": [b""]}),
            "a.parquet: it has no column 'answer'",
        ),
    ],
)
def test_what_is_wrong_with_the_files_is_one_line(folders, tmp_path, capsys, change, message):
    root = broken(folders, tmp_path, change)
    with pytest.raises(EvaluationError, match=message):
        read_mme(root)
    assert cli.evaluate(["mme", "--data", str(root), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def pyarrow_table(path, columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def test_a_damaged_picture_is_named(folders, tmp_path):
    root = broken(folders, tmp_path, lambda root, text: None)
    picture = next(root.glob("*/images/*.png"))
    picture.write_bytes(picture.read_bytes()[:50])
    entry = next(e for e in read_mme(root) if e.name == f"{picture.parent.parent.name}/{picture.name}")
    with pytest.raises(EvaluationError, match=f"{entry.name}: The image is damaged"):
        entry.case(ImageLimits())
