"""Accuracy by retention and selection: `lookonce eval retention`.

Every way answers the same questions about the same held-out scenes: the full pass (the whole image, asked directly),
contexts that keep a share of the image tokens by each selection, and contexts without image tokens, without text, or
without both. `oracle` knows where the objects are: the room that any selection has. Random and uniform always stand
beside attention, for attention-ranked pruning is often no better. An answer is right when it is exactly the expected
one, so the checkpoint has to know scenes; `lookonce eval mme` is for others.
"""

from collections.abc import Sequence

import torch

from lookonce_evaluation import methods, plots, tables
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.metrics.grading import grade_exactly
from lookonce_evaluation.metrics.mme import KINDS, Row, record, rows_of
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.options import context_options, parser, settings_of
from lookonce_evaluation.runs import Run
from lookonce_scenes.questions import CATEGORIES

RETENTIONS = (0.5, 0.2, 0.1, 0.05, 0.02)


# Name, ACC, ACC+, tokens in context; and what it is called here, None for the default selection, and its retention.
PUBLISHED: tuple[tuple[str, float, float, int, str | None, float | None], ...] = (
    ("naive", 84.83, 70.60, 1695, "full pass", None),
    ("query + K = 5%", 81.46, 64.52, 201, None, 0.05),
    ("query + K = 2%", 77.16, 55.94, 151, None, 0.02),
    ("query only", 61.03, 28.45, 60, "query only", 0.0),
    ("K = 2%, image only", 62.40, 31.84, 91, "image only", 0.02),
    ("caption given to an LLM", 73.21, 56.14, 172, "caption only", None),
)
"""Kaduri et al., arXiv 2411.17491: InternVL2-76B on MME's ten perception categories."""


def beside_the_papers(rows: Sequence[Row], default: str) -> str:
    """Write the paper's table, with this run's rows beside its own."""
    by_name = {(row.name, row.retention): row for row in rows}
    columns = ("ACC", "of full pass", "ACC+", "tokens")
    head = ("", *(f"paper: {name}" for name in columns), "here", *(f"here: {name}" for name in columns))
    lines = []
    for name, accuracy, accuracy_plus, tokens, method, retention in PUBLISHED:
        row = by_name.get((method or default, retention))
        if row:
            ours, full = row.outcomes.percent, rows[0].outcomes.percent("acc")
            paper = _cells(accuracy, PUBLISHED[0][1], accuracy_plus, tokens)
            here = f"{row.name}, {tables.kept(row)}" if row.retention else row.name
            lines.append([name, *paper, here, *_cells(ours("acc"), full, ours("acc+"), row.tokens)])
    return tables.table(head, lines)


def _cells(accuracy: float, full: float, plus: float, tokens: float) -> list[str]:
    return [f"{accuracy:.1f}", tables.of_full(accuracy, full), f"{plus:.1f}", f"{tokens:.0f}"]


def report(run: Run, rows: list[Row], default: str) -> None:
    """Write the tables and the plot."""
    shown = [row for row in rows if row.retention in (None, 1.0, methods.SMALL[0]) or row.name == default]
    kinds = " / ".join(KINDS[kind] for kind in rows[0].outcomes.kinds)
    by_category = tables.by_category(shown)
    run.write("table.md", "\n\n".join((tables.accuracy(rows), f"By category, {kinds}:", by_category)))
    run.write("paper.md", beside_the_papers(rows, default))
    plots.by_retention(run.folder / "retention.png", rows)


def main(arguments: list[str]) -> None:
    """Run the command."""
    options = context_options(parser("eval retention", __doc__, images=500), RETENTIONS).parse_args(arguments)
    settings = settings_of(options)
    model = EvalModel.load(options.model, settings, options.device)
    window = model.window(settings.window)
    compared = methods.methods(options.retentions, settings.selection, window, settings.rows, model.num_layers)
    config = {"command": "eval retention", "model": model.fingerprint, "prompt": model.describe_prompt}
    run = Run(options.out, {**config, "methods": methods.as_json(compared)})
    cases = held_out(options.images)
    with torch.inference_mode():
        records = run.over(cases, lambda c: record(model, c, compared, lambda *args: grade_exactly(model, *args).right))
    rows = rows_of(cases, compared, records, CATEGORIES)
    report(run, rows, settings.selection)
    result = {"images": len(cases), "rows": [row.as_json(rows[0].outcomes) for row in rows]}
    run.write_json("result.json", config | result)
    print(tables.accuracy(rows))
