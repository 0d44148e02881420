"""The oracle, the ways to answer, and one small evaluation from end to end."""

import json
import math
from collections import Counter

import pytest
import torch

from lookonce_evaluation import cli, retention
from lookonce_evaluation.accuracy import rows_of, table
from lookonce_evaluation.bench.checkpoints import TINY, write_qwen2_vl
from lookonce_evaluation.dataset import Case, held_out
from lookonce_evaluation.oracle import oracle
from lookonce_evaluation.paired import Outcomes
from lookonce_evaluation.retention import RETENTIONS, SEEDS, SMALL, ways
from lookonce_evaluation.ways import CaptionOnly, Context, FullPass, ImageOnly, Look
from lookonce_pruning import kept_count, parse_window, rotate_keys
from lookonce_scenes.questions import CATEGORIES, Question
from lookonce_scenes.tokenizer import GRID, PATCH_SIZE
from lookonce_scenes.world import sample_scene

YES, NO, OPEN = Question("count", "?", "Yes"), Question("count", "?", "No"), Question("count", "?", "2")
FIRST, SECOND = FullPass(), Context("random", 0.05, "random", (0, 2), "generated", 0)


def case(pairs: tuple[str, ...], single: tuple[str, ...]) -> Case:
    return Case("", None, dict.fromkeys(pairs, (YES, NO)), dict.fromkeys(single, OPEN))


def record(tokens, size, right):
    return {"tokens": tokens, "bytes": size, "right": right}


def test_acc_counts_questions_and_acc_plus_counts_images():
    cases = [case(("count", "color"), ("count",)), case(("count",), ("count", "size"))]
    records = [[record(10, 960, "11100")], [record(5, 480, "1011")]]
    (row,) = rows_of(cases, [FIRST], records, CATEGORIES)
    found = row.as_json(row.outcomes)
    assert found["acc"]["by category"] == {"count": 75.0, "color": 50.0}
    assert found["acc+"]["by category"] == {"count": 50.0, "color": 0.0}
    assert found["open"]["by category"] == {"count": 50.0, "size": 100.0}
    assert [found[kind]["percent"] for kind in ("acc", "acc+", "open")] == [62.5, 25.0, 75.0]
    assert (row.name, row.retention, row.tokens, row.bytes) == ("full pass", None, 7.5, 720)


def test_seeds_are_one_row_of_their_mean_and_range():
    asked = [case(("count",), ())] * 2
    seeded = [SECOND, Context("random", 0.05, "random", (0, 2), "generated", 1)]
    records = [
        [record(9, 9, "11"), record(1, 4, "10"), record(3, 8, "11")],
        [record(9, 9, "11")] + [record(2, 6, "00")] * 2,
    ]
    full, row = rows_of(asked, [FIRST, *seeded], records, CATEGORIES)
    assert [one.percent("acc") for one in row.seeds] == [25, 50]
    assert row.percent("acc") == "37.5 (25.0 to 50.0)"
    assert row.outcomes.change(full.outcomes, "acc").difference == -62.5
    assert (row.tokens, row.bytes) == (2, 6)
    assert "| 5% | random | 2 | 0 | 37.5 (25.0 to 50.0) | 37.5% | -62.50 (" in table([full, row])
    assert "open" not in table([full, row])  # of which nothing was asked


@pytest.mark.parametrize("seed", range(40))
def test_the_oracle_keeps_a_token_on_every_object(seed):
    scene = sample_scene(seed)
    centres = {int(o.y // PATCH_SIZE) * GRID + int(o.x // PATCH_SIZE) for o in scene.objects}
    for keep in (len(scene.objects), 10, 98, GRID * GRID):
        kept = oracle(scene, (GRID, GRID), keep)
        assert kept.shape == (1, keep)
        assert (kept.diff() > 0).all()
        assert centres <= set(kept[0].tolist())


def test_the_oracle_serves_objects_in_turn():
    scene = sample_scene(3, min_objects=3, max_objects=3)
    kept = oracle(scene, (GRID, GRID), 9)[0]
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


def test_the_oracle_knows_other_grids():
    scene = sample_scene(3, min_objects=1, max_objects=1)
    (one,) = scene.objects
    assert oracle(scene, (4, 7), 1).tolist() == [[int(one.y // 28) * 7 + int(one.x // 16)]]


@pytest.fixture(scope="module")
def look(subject):
    with torch.inference_mode():
        yield Look(subject, held_out(1, 600_000_000)[0])


def test_one_describe_pass_gives_every_windows_scores(subject, look):
    for window, rows in ((range(2, 4), "generated"), (range(1, 8), "query"), (range(8), "both")):
        alone = subject.describe(look.case, window).scores(rows)
        shared = look.scores(window, rows)
        torch.testing.assert_close(shared.values, alone.values)
        assert (shared.layers, shared.grid, shared.num_layers) == (alone.layers, alone.grid, alone.num_layers)


def test_a_context_is_what_the_server_would_keep(subject, look, settings):
    window = parse_window(settings.window, 8)
    way = Context("default", 0.05, settings.selection, (window.start, window.stop), settings.rows)
    graded, keys = subject.from_context(look.case, look.described, way.kept(look))
    ready = way.ready(look)
    torch.testing.assert_close(ready.keys, keys)
    assert subject.grader.grade(*ready, look.case.questions).right == graded.right
    assert ready.next_position == ready.tokens == kept_count(0.05, 196) + 7


def test_the_image_only_has_no_text_and_the_kept_tokens_where_they_were(subject, look):
    """As in the context with text, each kept token is as far from the question as in the prompt."""
    whole = Context("all", 0.05, "attention", (2, 4), "generated").ready(look)
    alone = ImageOnly("image only", 0.05, "attention", (2, 4), "generated").ready(look)
    assert alone.tokens == alone.next_position == 10
    torch.testing.assert_close(alone.values, whole.values[:, :, 2:12])  # two tokens before the image, five after
    moved = rotate_keys(whole.keys[:, :, 2:12], subject.runner.inv_freq, 10 - 17)
    torch.testing.assert_close(alone.keys, moved, atol=1e-4, rtol=1e-4)


def test_the_caption_is_an_earlier_turn_of_text(subject, look):
    """What is in the cache and each prompt together are the conversation, and no pixel is in it."""
    ready = CaptionOnly().ready(look)
    tokenizer = subject.prompts.tokenizer
    for prompt, question in zip(ready.prompts, look.case.questions, strict=True):
        said = tokenizer.decode(prompt)
        assert question.text in said
    ids = tokenizer(look.described.text, add_special_tokens=False)["input_ids"]
    assert len(ids) < ready.tokens < len(ids) + 25
    assert subject.prompts.image_id not in [token for prompt in ready.prompts for token in prompt]


def test_draws_differ_by_image_and_seed(look):
    first, second = (Context("random", 0.1, "random", (2, 4), "generated", seed) for seed in (0, 1))
    other = Look(look.subject, look.case._replace(name="other"))
    other.__dict__["described"] = look.described
    assert first.kept(look).tolist() == first.kept(look).tolist()
    assert first.kept(look).tolist() != second.kept(look).tolist()
    assert first.kept(look).tolist() != first.kept(other).tolist()


ARGUMENTS = ["retention", "--retentions", "0.05"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """An evaluation of one image that then goes on to a second."""
    folder = tmp_path_factory.mktemp("resumed")
    for images in "12":
        assert cli.evaluate([*ARGUMENTS, "--images", images, "--out", str(folder)]) == 0
    return folder


def test_every_way_has_a_row(out):
    rows = json.loads((out / "result.json").read_text())["rows"]
    pruned = ["coverage", "attention", "attention-per-layer"]
    varied = ["attention, all layers", "attention, query rows", "attention, both rows"]
    varied += ["attention-uniform", "attention-random"]
    expected = [("full pass", None), ("everything", 1.0)]
    expected += [(name, 0.05) for name in (*pruned, *varied, "uniform", "random", "oracle")]
    expected += [("query only", 0.0), ("image only", 0.05), ("caption only", None)]
    assert [(row["name"], row["retention"]) for row in rows] == expected
    assert [len(row["acc"]["by seed"]) for row in rows if row["name"] == "random"] == [len(SEEDS)]


def test_the_defaults_are_the_papers_table():
    made = ways(RETENTIONS, "coverage", range(2, 4), "generated", 8)
    assert {way.retention for way in made if way.name == "coverage"} == {0.5, 0.2, 0.1, 0.05, 0.02}
    assert {way.retention for way in made if way.name == "image only"} == set(SMALL) == {0.05, 0.02}
    seeds = Counter(way.retention for way in made if way.name == "random")
    assert seeds == {0.5: 1, 0.2: 1, 0.1: 1, 0.05: len(SEEDS), 0.02: len(SEEDS)}
    assert len(set(made)) == len(made)
    assert "attention, generated rows" in {way.name for way in ways((0.05,), "attention", range(2, 4), "query", 8)}


def test_tokens_in_context_are_the_kept_ones_and_the_texts(out):
    rows = json.loads((out / "result.json").read_text())["rows"]
    tokens = {(row["name"], row["retention"]): row["tokens"] for row in rows}
    text = tokens["query only", 0.0]
    assert tokens["everything", 1.0] == text + 196
    assert tokens["coverage", 0.05] == tokens["oracle", 0.05] == tokens["random", 0.05] == text + 10
    assert tokens["image only", 0.05] == 10
    assert all(
        row["bytes"] == row["tokens"] * 2 * 8 * 2 * 32 * 4 for row in rows
    )  # K and V, layers, heads, size, float32


def test_an_interrupted_run_ends_as_another(out, tmp_path):
    assert cli.evaluate([*ARGUMENTS, "--images", "2", "--out", str(tmp_path)]) == 0
    for name in ("result.json", "table.md", "paper.md", "records.jsonl"):
        assert (tmp_path / name).read_text() == (out / name).read_text(), name


def test_the_tables_and_the_plot_are_well_formed(out):
    tables = (out / "table.md").read_text().split("\n\n")
    assert tables[1] == "By category, ACC / ACC+ / open:"
    for one in (tables[0], tables[2], (out / "paper.md").read_text().rstrip()):
        head, rule, *body = one.rstrip().splitlines()
        assert rule == "|" + "---|" * (head.count("|") - 1)
        assert body
        assert {line.count("|") for line in body} == {head.count("|")}
        assert "nan" not in one
    assert tables[0].splitlines()[2].split(" | ")[5] == "100.0%"
    assert "| naive | 84.8 | 100.0% | 70.6 | 1695 | full pass |" in (out / "paper.md").read_text()
    assert (out / "retention.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--retentions", "0.5,2"], "'0.5,2': expected numbers between 0 and 1"),
        (["--retentions", "few"], "'few': expected numbers"),
        (["--selection", "atention"], "unknown selection 'atention'; valid: attention, "),
        (["--selection", "coverage:reach=0"], "reach 0: expected more than 0"),
        (["--rows", "last"], "invalid choice: 'last'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        retention.main(arguments)
    assert f"argument {arguments[0]}: " in (error := capsys.readouterr().err)
    assert message in error


def test_a_window_that_the_model_does_not_have_is_one_line(capsys, tmp_path):
    assert cli.evaluate(["retention", "--window", "4-99", "--out", str(tmp_path)]) == 1
    assert "--window: window '4-99': expected 0 <= first < end <= 8" in capsys.readouterr().err


def test_another_family_with_another_grid(tmp_path):
    """Positions of three components, sixteen image tokens, text before and after; random weights say anything."""
    checkpoint = str(write_qwen2_vl(tmp_path / "checkpoint", TINY))
    arguments = [*ARGUMENTS, "--model", checkpoint, "--images", "1", "--out", str(tmp_path / "out")]
    assert cli.evaluate(arguments) == 0
    rows = json.loads((tmp_path / "out" / "result.json").read_text())["rows"]
    tokens = {(row["name"], row["retention"]): row["tokens"] for row in rows}
    text = tokens["query only", 0.0]
    assert tokens["everything", 1.0] == text + 16
    assert tokens["coverage", 0.05] == text + 1
    assert tokens["image only", 0.05] == 1
    assert 16 < tokens["full pass", None] < tokens["everything", 1.0]


@pytest.mark.parametrize("threshold", [90.0])
def test_the_bundled_model_sees(subject, threshold):
    """Not a measurement: a checkpoint that was not trained to its end fails it."""
    outcomes = Outcomes()
    for one in held_out(30):
        outcomes.add(one, subject.full_pass(one)[0].right)
    accuracy = outcomes.by_category("acc")
    seen = {category: accuracy[category] for category in ("existence", "color", "shape", "size")}
    assert min(seen.values()) >= threshold, seen
