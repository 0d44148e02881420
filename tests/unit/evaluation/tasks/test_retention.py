"""One small evaluation of accuracy by retention from end to end."""

import json

import pytest

from lookonce_evaluation import cli
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.methods import SEEDS
from lookonce_evaluation.metrics.grading import full_pass
from lookonce_evaluation.metrics.mme import Outcomes
from lookonce_evaluation.tasks import retention

ARGUMENTS = ["retention", "--retentions", "0.05"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """An evaluation of one image that then goes on to a second."""
    folder = tmp_path_factory.mktemp("resumed")
    for images in "12":
        assert cli.evaluate([*ARGUMENTS, "--images", images, "--out", str(folder)]) == 0
    return folder


def test_every_method_has_a_row(out):
    rows = json.loads((out / "result.json").read_text())["rows"]
    pruned = ["coverage", "attention", "attention-per-layer"]
    varied = ["attention, all layers", "attention, query rows", "attention, both rows"]
    varied += ["attention-uniform", "attention-random"]
    expected = [("full pass", None), ("everything", 1.0)]
    expected += [(name, 0.05) for name in (*pruned, *varied, "uniform", "random", "oracle")]
    expected += [("query only", 0.0), ("image only", 0.05), ("caption only", None)]
    assert [(row["name"], row["retention"]) for row in rows] == expected
    assert [len(row["acc"]["by seed"]) for row in rows if row["name"] == "random"] == [len(SEEDS)]


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


def test_another_family_with_another_grid(tmp_path, qwen2_vl):
    """Positions of three components, sixteen image tokens, text before and after; random weights say anything."""
    arguments = [*ARGUMENTS, "--model", qwen2_vl, "--images", "1", "--out", str(tmp_path / "out")]
    assert cli.evaluate(arguments) == 0
    rows = json.loads((tmp_path / "out" / "result.json").read_text())["rows"]
    tokens = {(row["name"], row["retention"]): row["tokens"] for row in rows}
    text = tokens["query only", 0.0]
    assert tokens["everything", 1.0] == text + 16
    assert tokens["coverage", 0.05] == text + 1
    assert tokens["image only", 0.05] == 1
    assert 16 < tokens["full pass", None] < tokens["everything", 1.0]


def test_the_bundled_model_sees(model):
    """Not a measurement: a checkpoint that was not trained to its end fails it."""
    outcomes = Outcomes()
    for one in held_out(15):
        outcomes.add(one, full_pass(model, one)[0].right)
    accuracy = outcomes.by_category("acc")
    seen = {category: accuracy[category] for category in ("existence", "color", "shape", "size")}
    assert min(seen.values()) >= 90, seen
