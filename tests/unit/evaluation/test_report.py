"""Results get into the pages, and the pages ask only for what is made."""

import re
from pathlib import Path

import pytest

from lookonce_evaluation import cli
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.report import STEPS, Step, fill, publish

DOCS = Path(__file__).parents[3] / "docs" / "research"
STEP = Step("eval retention", "--images 3")
PAGE = """# Page

<!-- report: eval-retention/table.md -->
| old |
<!-- /report -->
between
<!-- report: analyze-attention/table.md -->
| another |
<!-- /report -->
"""


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs" / "eval-retention"
    folder.mkdir(parents=True)
    (folder / "table.md").write_text("| new |\n")
    (folder / "curve.png").write_bytes(b"png")
    (folder / "result.json").write_text("{}")
    return tmp_path / "runs"


def test_a_table_is_put_in_place_with_its_command(runs):
    filled = fill(PAGE, {"eval-retention": STEP}, runs)
    assert "```bash\nlookonce eval retention --images 3\n```\n\n| new |\n<!-- /report -->\nbetween" in filled
    assert "| old |" not in filled
    assert "| another |" in filled  # of a run that was not asked for
    assert fill(filled, {"eval-retention": STEP}, runs) == filled


def test_a_page_that_shows_what_was_not_made_is_an_error(runs):
    (runs / "eval-retention" / "table.md").unlink()
    with pytest.raises(EvaluationError, match=r"table\.md, which `lookonce eval retention --images 3` did not write"):
        fill(PAGE, {"eval-retention": STEP}, runs)


def test_plots_and_figures_are_copied(runs, tmp_path):
    for folder in ("images", "results"):
        (tmp_path / folder).mkdir()
    publish(STEP, runs, tmp_path)
    assert (tmp_path / "images" / "eval-retention-curve.png").read_bytes() == b"png"
    assert (tmp_path / "results" / "eval-retention.json").read_text() == "{}"


def test_each_step_is_a_command():
    for step in STEPS:
        group, _, name = step.name.partition(" ")
        assert name in {"eval": cli.EVAL, "analyze": cli.ANALYZE, "calibrate": {""}}[group]


def test_pages_show_only_what_a_step_makes():
    runs = {step.run for step in STEPS}
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text()
        assert set(re.findall(r"<!-- report: ([a-z-]+)/", text)) <= runs, page
        assert text.count("<!-- report: ") == text.count("<!-- /report -->"), page
        for plot in re.findall(r"\]\(images/((?:eval|analyze)-[\w-]+\.png)\)", text):
            assert (DOCS / "images" / plot).is_file(), plot
            assert any(plot.startswith(run) for run in runs), plot
