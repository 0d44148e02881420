"""Accuracy by retention and selection: `lookonce eval retention`.

Every way answers the same questions about the same held-out scenes: the full pass (the whole image, asked directly),
contexts that keep a share of the image tokens by each selection, and contexts without image tokens, without text, or
without both. `oracle` knows where the objects are: the room that any selection has. Random and uniform always stand
beside attention, for attention-ranked pruning is often no better. An answer is right when it is exactly the expected
one, so the checkpoint has to know scenes; `lookonce eval mme` is for others.
"""

from collections.abc import Sequence

import torch

from lookonce_evaluation.accuracy import KINDS, Row, answered, as_json, by_category, described, rows_of, table
from lookonce_evaluation.commands import context_options, parser, settings_of, window_of
from lookonce_evaluation.dataset import held_out
from lookonce_evaluation.plots import by_retention
from lookonce_evaluation.published import beside_the_papers
from lookonce_evaluation.runs import Run
from lookonce_evaluation.subject import Subject
from lookonce_evaluation.ways import CaptionOnly, Context, FullPass, ImageOnly, Ready, Way
from lookonce_pruning import ScoreQueries
from lookonce_scenes.questions import CATEGORIES, Question

RETENTIONS = (0.5, 0.2, 0.1, 0.05, 0.02)
SMALL = (0.05, 0.02)
"""The retentions of the paper's table: what is scored and how it is chosen are varied more at these."""
SEEDS = range(5)
"""Of random draws at these. Each image is drawn for anew, so one seed has as many draws as there are images."""
ROWS: tuple[ScoreQueries, ...] = ("generated", "query", "both")


def ways(retentions: Sequence[float], selection: str, window: range, rows: ScoreQueries, layers: int) -> list[Way]:
    """All ways, the full pass first.

    Args:
        retentions: shares of the image tokens, between 0 and 1.
        selection: the default one.
        window: the layers scored.
        rows: whose attention is scored.
        layers: of the model.
    """
    scored = ((window.start, window.stop), rows)
    made: list[Way] = [FullPass(), Context("everything", 1.0, "attention", *scored)]
    for share in retentions:
        made += [Context(name, share, name, *scored) for name in dict.fromkeys((selection, "attention"))]
        made.append(Context("attention-per-layer", share, "attention-per-layer", (0, layers), rows))
        made += _variants(share, *scored, layers) if share in SMALL else []
        made.append(Context("uniform", share, "uniform", *scored))
        seeds = SEEDS if share in SMALL else SEEDS[:1]
        made += [Context("random", share, "random", *scored, seed=seed) for seed in seeds]
        made.append(Context("oracle", share, "oracle", *scored))
    made.append(Context("query only", 0.0, "attention", *scored))
    made += [ImageOnly("image only", share, selection, *scored) for share in retentions if share in SMALL]
    return [*made, CaptionOnly()]


def _variants(share: float, window: tuple[int, int], rows: ScoreQueries, layers: int) -> list[Context]:
    """Attention scored in all layers, and by other rows; and half attention, half not."""
    return [
        Context("attention, all layers", share, "attention", (0, layers), rows),
        *(Context(f"attention, {one} rows", share, "attention", window, one) for one in ROWS if one != rows),
        Context("attention-uniform", share, "attention-uniform", window, rows),
        Context("attention-random", share, "attention-random", window, rows, seed=0),
    ]


def report(run: Run, rows: list[Row], default: str) -> None:
    """Write the tables and the plot."""
    shown = [row for row in rows if row.retention in (None, 1.0, SMALL[0]) or row.name == default]
    kinds = " / ".join(KINDS[kind] for kind in rows[0].outcomes.kinds)
    run.write("table.md", "\n\n".join((table(rows), f"By category, {kinds}:", by_category(shown))))
    run.write("paper.md", beside_the_papers(rows, default))
    by_retention(run.folder / "retention.png", rows)


def main(arguments: list[str]) -> None:
    """The command."""
    options = context_options(parser("eval retention", __doc__, images=500), RETENTIONS).parse_args(arguments)
    settings = settings_of(options)
    subject = Subject.load(options.model, settings, options.device)
    window, layers = window_of(settings, subject), subject.runner.num_layers
    chosen = ways(options.retentions, settings.selection, window, settings.rows, layers)
    asked = {"command": "eval retention", "model": subject.fingerprint, "prompt": subject.describe_prompt}
    run = Run(options.out, {**asked, "ways": described(chosen)})
    cases = held_out(options.images)

    def exactly(ready: Ready, questions: list[Question]) -> list[bool]:
        return subject.grader.grade(*ready, questions).right

    with torch.inference_mode():
        records = run.over(cases, lambda case: answered(subject, case, chosen, exactly), name=lambda case: case.name)
    found = rows_of(cases, chosen, records, CATEGORIES)
    report(run, found, settings.selection)
    run.write_json("result.json", {**asked, "images": len(cases), "rows": as_json(found)})
    print(table(found))
