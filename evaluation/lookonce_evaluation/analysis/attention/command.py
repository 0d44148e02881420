"""Where a checkpoint looks while it describes: `lookonce analyze attention`.

How each layer divides its attention among the kinds of token, a map of each layer, and where each word looks. On drawn
scenes, of which is known what is where, also how often a word looks at its own object. The folder of the results gets
table.md, result.json, shares.png, maps.png, words.png, grounding.png and attention.html, a page that holds it all.
"""

import argparse
import base64
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from lookonce_evaluation.analysis.attention.examples import Overlay, example
from lookonce_evaluation.analysis.attention.figures import (
    grounding_figure,
    maps_figure,
    png,
    shares_figure,
    words_figure,
)
from lookonce_evaluation.analysis.attention.measures import bands_of
from lookonce_evaluation.analysis.attention.observe import observe, record
from lookonce_evaluation.analysis.attention.summary import (
    as_json,
    in_short,
    percent,
    summarise,
    tables_of,
)
from lookonce_evaluation.data.folder import in_folder
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.options import parser, positive, settings_for
from lookonce_evaluation.runs import Run
from lookonce_server.settings import BUNDLED

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def html(**report: Any) -> str:
    """Write the page, one file that holds all it shows, and asks for nothing.

    Every text in it is escaped: descriptions and file names are other people's.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"data_url": data_url, "percent": percent}
    environment.globals["alt"] = alt
    page: str = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(r=report)
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


def main(arguments: list[str]) -> None:
    """Run the command."""
    options = _options(arguments)
    settings, folder, top = settings_for(options.model), options.images_folder, options.top_k
    cases = in_folder(folder, options.images) if folder else held_out(options.images)
    model = EvalModel.load(options.model, settings, options.device)
    bands = bands_of(model.num_layers, model.window(settings.window))
    asked = {
        "command": "analyze attention",
        "checkpoint": model.fingerprint,
        "describe_prompt": settings.describe_prompt,
        "images": str(folder or "scenes"),
        "bands": [band.label for band in bands],
        "top_k": top,
    }
    run = Run(options.out, asked)
    records = run.over(cases, lambda case: record(observe(model, case), bands, top), name=lambda case: case.name)
    examples = [example(observe(model, case), bands[:-1], top) for case in cases[: options.examples]]
    images = f"pictures of {folder}" if folder else "drawn scenes"
    facts = _facts(model, options.model, records, images)
    summary = summarise(records)
    tables = tables_of(summary, bands, top)
    run.write("table.md", "\n\n".join(table.markdown() for table in tables))
    shown = {"examples": [each.as_json() for each in examples]}
    run.write_json("result.json", {"facts": facts} | as_json(summary, bands) | shown)
    _write_png(run, "maps", png(lambda: maps_figure(examples)))
    _write_png(run, "words", png(lambda: words_figure(examples[0], bands[:-1])))
    page = html(
        facts=facts,
        command=shlex.join(["lookonce", "analyze", "attention", *arguments]),
        short=in_short(summary, bands),
        summary=summary,
        shares=_chart(run, "shares", lambda: shares_figure(summary)),
        grounding=_chart(run, "grounding", lambda: grounding_figure(summary)) if summary.classes else None,
        ungrounded=_why_not(folder, records),
        tables=tables,
        examples=examples,
        top=top,
    )
    run.write("attention.html", page)


def _chart(run: Run, name: str, draw: Callable[[], Figure]) -> dict[str, bytes]:
    """A plot, on light and on dark ground."""
    light = png(draw)
    _write_png(run, name, light)
    return {"light": light, "dark": png(draw, dark=True)}


def _write_png(run: Run, name: str, content: bytes) -> None:
    path = run.folder / f"{name}.png"
    path.write_bytes(content)
    print(f"wrote {path}")


def _why_not(folder: Path | None, records: Sequence[dict[str, Any]]) -> str:
    """Why nothing is grounded; nothing where something is."""
    if folder:
        return "these are pictures of your own. Run without --images-folder, on drawn scenes."
    if not records[0]["grounding"]:
        return "where in a picture this model's tokens are is not known."
    if not any(each["grounding"]["right"] for each in records):
        return "no description names an object of its scene by its colour and kind, with nothing wrong said of it."
    return ""


def _facts(model: EvalModel, name: str, records: Sequence[dict[str, Any]], images: str) -> dict[str, str]:
    """Of the model and the run, for people."""
    text = model.runner.model.config.get_text_config()
    grids = {tuple(each["grid"]) for each in records}
    return {
        "Model": "the bundled model" if name == BUNDLED else name,
        "Architecture": f"{type(model.runner.model).__name__}, {text.model_type}",
        "Layers": str(model.num_layers),
        "Heads": f"{text.num_attention_heads}, and {text.num_key_value_heads} of keys and values",
        "Fingerprint": model.fingerprint[:16],
        "Images": f"{len(records)} {images}",
        "Image tokens": " x ".join(map(str, grids.pop())) if len(grids) == 1 else "of several sizes",
        "Describe prompt": model.describe_prompt,
    }


def _options(arguments: list[str]) -> argparse.Namespace:
    command = parser("analyze attention", __doc__, images=200)
    text = "describe the pictures of this folder instead of drawn scenes; grounding needs scenes, and is left out"
    command.add_argument("--images-folder", type=Path, help=text)
    command.add_argument("--examples", type=positive, default=3, help="images that are shown [%(default)s]")
    command.add_argument("--top-k", type=positive, default=3, help="patches named of each word's map [%(default)s]")
    return command.parse_args(arguments)
