"""The report: one HTML file that holds all it shows, and asks for nothing."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined

from lookonce_evaluation.analysis.attention.examples import Example, Overlay
from lookonce_evaluation.analysis.attention.summary import Summary, Table, percent

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

    def html(self) -> str:
        """Write the page. Every text in it is escaped: descriptions and file names are other people's."""
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        environment.filters |= {"data_url": data_url, "percent": percent}
        environment.globals["alt"] = alt
        page: str = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(r=self)
        return page


def data_url(png: bytes) -> str:
    """Write a PNG as a URL of itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def alt(overlay: Overlay, word: str = "") -> str:
    """Say what a map shows, in words."""
    what = f"Where “{word}” looks" if word else "Where the description looks"
    if not overlay.top:
        return f"{what}, {overlay.layers}"
    places = ", ".join(f"row {p.row + 1} column {p.column + 1} ({p.share:.0%})" for p in overlay.top)
    on = "" if overlay.on_object is None else f"; {overlay.on_object} of {len(overlay.top)} on its object"
    return f"{what}, {overlay.layers}: {places}{on}"
