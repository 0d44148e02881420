"""Analyze a checkpoint's attention: `lookonce analyze attention`.

How each layer divides its attention among the kinds of token, a map of each layer, and where each word looks. On drawn
scenes, of which is known what is where, also how often a word looks at its own object. The folder of the results gets
table.md, result.json, shares.png, maps.png, words.png, grounding.png and attention.html, a page that holds it all.
"""

import argparse
import base64
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from lookonce_evaluation.analysis.attention.figures import (
    Overlay,
    example,
    grounding_figure,
    maps_figure,
    shares_figure,
    words_figure,
)
from lookonce_evaluation.analysis.attention.observe import bands_of, observe, record
from lookonce_evaluation.analysis.attention.summary import as_json, summarise, tables_of
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.options import cases_of, parser, positive, settings_for
from lookonce_evaluation.plots import save
from lookonce_evaluation.runs import Run
from lookonce_server.settings import BUNDLED

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def html(**report: Any) -> str:
    """Write the page, one file that holds all it shows, and loads nothing.

    Every text in it is escaped: descriptions and file names are other people's.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data_url"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
    environment.globals["alt"] = alt
    page: str = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(r=report)
    return page


def alt(overlay: Overlay, word: str = "") -> str:
    """Say what a map shows, in words."""
    what = f"Where “{word}” looks" if word else "Where the description looks"
    places = ", ".join(f"row {p.row + 1} column {p.column + 1} ({p.share:.0%})" for p in overlay.top)
    on = "" if overlay.on_object is None else f"; {overlay.on_object} of {len(overlay.top)} on its object"
    return f"{what}, {overlay.layers}" + (f": {places}{on}" if places else "")


def main(arguments: list[str]) -> None:
    """Run the command."""
    options = _options(arguments)
    settings, folder, top = settings_for(options.model), options.images_folder, options.top_k
    cases = cases_of(options)
    model = EvalModel.load(options.model, settings, options.device)
    bands = bands_of(model.num_layers, model.window(settings.window))
    config = {
        "command": "analyze attention",
        "checkpoint": model.fingerprint,
        "describe_prompt": settings.describe_prompt,
        "images": str(folder or "scenes"),
        "bands": [band.label for band in bands],
        "top_k": top,
    }
    run = Run(options.out, config)
    records = run.over(cases, lambda case: record(observe(model, case), bands, top))
    examples = [example(observe(model, case), bands[:-1], top) for case in cases[: options.examples]]
    facts = _facts(model, options.model, records, f"pictures of {folder}" if folder else "drawn scenes")
    summary = summarise(records)
    tables = tables_of(summary, bands, top)
    run.write("table.md", "\n\n".join(table.markdown() for table in tables))
    shown = {"examples": [each.as_json() for each in examples]}
    run.write_json("result.json", {"facts": facts} | as_json(summary, bands) | shown)
    figures = {
        "maps": maps_figure(examples),
        "words": words_figure(examples[0], bands[:-1]),
        "shares": shares_figure(summary),
        **({"grounding": grounding_figure(summary)} if summary.classes else {}),
    }
    charts = {}
    for name, figure in figures.items():
        path = run.folder / f"{name}.png"
        save(figure, path)
        charts[name] = path.read_bytes()
    page = html(
        facts=facts,
        command=shlex.join(["lookonce", "analyze", "attention", *arguments]),
        summary=summary,
        charts=charts,
        ungrounded=_why_not(folder, records),
        tables=tables,
        examples=examples,
        top=top,
    )
    run.write("attention.html", page)


def _why_not(folder: Path | None, records: Sequence[dict[str, Any]]) -> str:
    """Say why nothing is grounded, if that is so."""
    if folder:
        return "these are pictures of your own. Run without --images-folder, on drawn scenes."
    if not records[0]["grounding"]:
        return "where in a picture this model's tokens are is not known."
    if not any(each["grounding"]["right"] for each in records):
        return "no description names an object of its scene by its colour and kind, with nothing wrong said of it."
    return ""


def _facts(model: EvalModel, name: str, records: Sequence[dict[str, Any]], images: str) -> dict[str, str]:
    """List facts of the model and the run, for people."""
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
