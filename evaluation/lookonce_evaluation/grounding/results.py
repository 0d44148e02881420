"""What a run leaves in its folder."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from torch import Tensor

from lookonce_evaluation.grounding.examples import Example
from lookonce_evaluation.grounding.layers import Band
from lookonce_evaluation.grounding.looking import WORD_ROWS
from lookonce_evaluation.grounding.measures import MEASURES
from lookonce_evaluation.grounding.plots import grounding_figure, maps_figure, png, shares_figure, words_figure
from lookonce_evaluation.grounding.report_html import Chart, Report, html, in_short
from lookonce_evaluation.grounding.shares import GROUPS, ROWS
from lookonce_evaluation.grounding.summary import Means, Summary
from lookonce_evaluation.grounding.tables import tables_of
from lookonce_evaluation.runs import Run


class Results(NamedTuple):
    """All that is written."""

    facts: Mapping[str, str]
    command: str
    summary: Summary
    bands: Sequence[Band]  # the last is the window that the server scores by
    top: int
    examples: Sequence[Example]
    ungrounded: str  # why nothing was grounded; empty where something was


def write(run: Run, results: Results) -> None:
    """The tables, the numbers, the plots, and the page that holds them."""
    summary, examples = results.summary, results.examples
    tables = tables_of(summary, list(results.bands), results.top)
    run.write("table.md", "\n\n".join(table.markdown() for table in tables))
    run.write_json("result.json", as_json(results))
    shares = _chart(run, "shares", lambda: shares_figure(summary))
    grounding = _chart(run, "grounding", lambda: grounding_figure(summary)) if summary.classes else None
    _write_png(run, "maps", png(lambda: maps_figure(examples)))
    _write_png(run, "words", png(lambda: words_figure(examples[0], results.bands[:-1])))
    page = Report(
        results.facts,
        results.command,
        in_short(summary, results.bands),
        summary,
        shares,
        grounding,
        results.ungrounded,
        tables,
        examples,
        results.top,
    )
    run.write("attention.html", html(page))


def as_json(results: Results) -> Any:
    """The figures of the tables and of the plots, and the examples' words with the patches that they look at."""
    summary = results.summary
    return {
        "facts": dict(results.facts),
        "groups": GROUPS,
        "shares": {
            rows: {"by_layer": _numbers(summary.shares[rows]), "even": _numbers(summary.even[rows])} for rows in ROWS
        },
        "mentions": summary.mentions,
        "right_mentions": summary.right,
        "units": [*range(len(summary.shares[ROWS[0]])), *(band.label for band in results.bands)],
        "grounding": {kind: _means(means) for kind, means in summary.classes.items()},
        "examples": [_example(one) for one in results.examples],
    }


def _means(means: Means) -> Any:
    """By rows and measure, of each layer and then of each band."""
    made: dict[str, Any] = {
        "words": means.words,
        "compared": means.compared,
        "chance": dict(zip(MEASURES, _numbers(means.chance), strict=True)),
    }
    for rows in WORD_ROWS:
        made[rows] = {
            name: {
                "own": _numbers(means.own[rows][i]),
                "error": _numbers(means.error[rows][i]),
                "other": _numbers(means.other[rows][i]),
            }
            for i, name in enumerate(MEASURES)
        }
        made[rows]["image_share"] = _numbers(means.image[rows])
    return made


def _example(example: Example) -> Any:
    words = [
        {
            "word": word.text,
            "about": word.about,
            "patches": {overlay.layers: [patch._asdict() for patch in overlay.top] for overlay in word.overlays},
        }
        for word in example.words
    ]
    return {"name": example.name, "description": example.description, "words": words}


def _numbers(values: Tensor) -> Any:
    """As lists, None for what is no number."""
    if values.dim() > 1:
        return [_numbers(one) for one in values]
    return [round(one, 5) if one == one else None for one in values.tolist()]


def _chart(run: Run, name: str, draw: Callable[[], Figure]) -> Chart:
    light = png(draw)
    _write_png(run, name, light)
    return Chart(light, png(draw, dark=True))


def _write_png(run: Run, name: str, content: bytes) -> None:
    path = run.folder / f"{name}.png"
    path.write_bytes(content)
    print(f"wrote {path}")
