"""The table's arithmetic, the oracle, and one small evaluation from end to end."""

import json
import math

import pytest
import torch

from lookonce_evaluation.dataset import Case, held_out
from lookonce_evaluation.retention import RETENTIONS, SELECTIONS, Tally, evaluate, markdown, select
from lookonce_pruning import parse_window
from lookonce_scenes.questions import CATEGORIES, Question
from lookonce_scenes.tokenizer import GRID, PATCH_SIZE
from lookonce_scenes.world import sample_scene

YES, NO, OPEN = Question("count", "?", "Yes"), Question("count", "?", "No"), Question("count", "?", "2")


def case(pairs: tuple[str, ...], single: tuple[str, ...]) -> Case:
    return Case("", None, dict.fromkeys(pairs, (YES, NO)), dict.fromkeys(single, OPEN))


def test_acc_counts_questions_and_acc_plus_counts_images():
    tally = Tally("coverage", 0.05)
    keys = torch.zeros(2, 3, 10, 4)
    tally.add(case(("count", "color"), ("count",)), [True, True, True, False, False], keys)
    tally.add(case(("count",), ("count", "size")), [True, False, True, True], keys[:, :, :5])
    row = tally.row()
    assert row.accuracy == {"count": 75.0, "color": 50.0}
    assert row.accuracy_plus == {"count": 50.0, "color": 0.0}
    assert row.open == {"count": 50.0, "size": 100.0}
    assert row.mean == {"acc": 62.5, "acc+": 25.0, "open": 75.0}
    assert row.tokens == 7.5
    assert row.bytes == (2 * 2 * 3 * 10 * 4 * 4 + 2 * 2 * 3 * 5 * 4 * 4) // 2
    assert (row.name, row.retention) == ("coverage", 0.05)


@pytest.mark.parametrize("seed", range(40))
def test_the_oracle_keeps_a_token_on_every_object(seed):
    scene = sample_scene(seed)
    centres = {int(o.y // PATCH_SIZE) * GRID + int(o.x // PATCH_SIZE) for o in scene.objects}
    for keep in (len(scene.objects), 10, 98, GRID * GRID):
        kept = select("oracle", None, keep, scene, 0)
        assert kept.shape == (1, keep)
        assert (kept.diff() > 0).all()
        assert centres <= set(kept[0].tolist())


def test_the_oracle_serves_objects_in_turn():
    scene = sample_scene(3, min_objects=3, max_objects=3)
    kept = select("oracle", None, 9, scene, 0)[0]
    nearest = [
        min(
            range(3),
            key=lambda i: math.dist(
                (scene.objects[i].y, scene.objects[i].x),
                ((int(k) // GRID + 0.5) * PATCH_SIZE, (int(k) % GRID + 0.5) * PATCH_SIZE),
            ),
        )
        for k in kept
    ]
    assert [nearest.count(i) for i in range(3)] == [3, 3, 3]


@pytest.fixture(scope="module")
def rows(subject, settings):
    window = parse_window(settings.window, subject.runner.num_layers)
    return evaluate(subject, held_out(2), window, progress=False)


def test_every_way_of_answering_has_a_row(rows):
    pruned = [share for share in RETENTIONS if 0 < share < 1]
    expected = [("full pass", None), ("everything", 1.0)]
    expected += [(name, share) for share in pruned for name in SELECTIONS] + [("nothing", 0.0)]
    assert [(row.name, row.retention) for row in rows] == expected


def test_tokens_in_context_are_the_kept_ones_and_the_texts(rows):
    tokens = {(row.name, row.retention): row.tokens for row in rows}
    text = tokens["nothing", 0.0]
    assert tokens["everything", 1.0] == text + 196
    assert tokens["coverage", 0.05] == tokens["oracle", 0.05] == text + 10
    assert all(row.bytes == row.tokens * 2 * 8 * 2 * 32 * 4 for row in rows)  # K and V, layers, heads, size, float32


def test_rows_can_be_written_as_json(rows):
    text = json.dumps([row._asdict() for row in rows], allow_nan=False)
    assert json.loads(text)[0]["name"] == "full pass"


def test_the_table_is_well_formed(rows):
    head, rule, *body = markdown(rows).splitlines()
    columns = head.count("|") - 1
    assert columns == 8 + len(CATEGORIES)
    assert rule == "|" + "---|" * columns
    assert len(body) == len(rows)
    for line in body:
        assert line.startswith("| ")
        assert line.endswith(" |")
        assert line.count("|") - 1 == columns
        assert "nan" not in line
    assert body[0].split(" | ")[5] == "100.0%"


@pytest.mark.parametrize("threshold", [90.0])
def test_the_bundled_model_sees(subject, threshold):
    """Not a measurement: a checkpoint that was not trained to its end fails it."""
    tally = Tally("full pass", None)
    for one in held_out(30):
        graded, prefix = subject.full_pass(one)
        tally.add(one, graded.right, prefix.keys)
    row = tally.row()
    seen = {category: row.accuracy[category] for category in ("existence", "color", "shape", "size")}
    assert min(seen.values()) >= threshold, seen
