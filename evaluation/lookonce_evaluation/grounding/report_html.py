"""The report: one HTML file that holds all it shows, and asks for nothing."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined

from lookonce_evaluation.grounding.examples import Example, Overlay
from lookonce_evaluation.grounding.layers import Band
from lookonce_evaluation.grounding.measures import MEASURES
from lookonce_evaluation.grounding.shares import GROUPS
from lookonce_evaluation.grounding.summary import ALL, Summary
from lookonce_evaluation.grounding.tables import Table, percent

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


class Chart(NamedTuple):
    """A plot, on light and on dark ground: PNG."""

    light: bytes
    dark: bytes


class Report(NamedTuple):
    """What the page shows."""

    facts: Mapping[str, str]  # of the model and of the run, by name
    command: str
    short: Sequence[str]  # what there is to see, in sentences
    summary: Summary
    shares: Chart
    grounding: Chart | None  # None: nothing was grounded; `ungrounded` says why
    ungrounded: str
    tables: Sequence[Table]
    examples: Sequence[Example]
    top: int


def html(report: Report) -> str:
    """The page. Every text in it is escaped: descriptions and file names are other people's."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"data_url": data_url, "percent": percent}
    environment.globals["alt"] = alt
    page: str = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(r=report)
    return page


def in_short(summary: Summary, bands: Sequence[Band]) -> list[str]:
    """What there is to see, in sentences."""
    image = GROUPS.index("image")
    paid = summary.shares["generated"][:, image]
    low, high = int(paid.argmin()), int(paid.argmax())
    found = [
        f"The rows that write the description pay the image between {percent(paid[low])}% (layer {low}) and"
        f" {percent(paid[high])}% (layer {high}) of their attention; divided evenly, it would be"
        f" {percent(summary.even['generated'][image])}%."
    ]
    if summary.classes:
        words, peak = summary.classes[ALL], MEASURES.index("peak")
        own, other = (by_rows["generating"][peak, -len(bands) :] for by_rows in (words.own, words.other))
        best = int(own[:-1].argmax())
        found.append(
            f"When a word about an object is written, the {bands[best].label} layers look most at that very object in"
            f" {percent(own[best])}% of the cases. With a word about another object of the image it would be"
            f" {percent(other[best])}%, and by chance {percent(words.chance[peak])}%."
        )
    return found


def data_url(png: bytes) -> str:
    """A PNG as a URL of itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def alt(overlay: Overlay, word: str = "") -> str:
    """What a map shows, in words."""
    what = f"Where “{word}” looks" if word else "Where the description looks"
    if not overlay.top:
        return f"{what}, {overlay.layers}"
    places = ", ".join(f"row {p.row + 1} column {p.column + 1} ({p.share:.0%})" for p in overlay.top)
    on = "" if overlay.on_object is None else f"; {overlay.on_object} of {len(overlay.top)} on its object"
    return f"{what}, {overlay.layers}: {places}{on}"
