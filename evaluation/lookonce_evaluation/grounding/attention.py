"""Where a checkpoint looks while it describes: `lookonce analyze attention`.

How each layer divides its attention among the kinds of token, a map of each layer, and where each word looks. On drawn
scenes, of which is known what is where, also how often a word looks at its own object. The folder of the results gets
table.md, result.json, shares.png, maps.png, words.png, grounding.png and attention.html, a page that holds it all.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lookonce_evaluation.commands import parser, positive, settings_for
from lookonce_evaluation.dataset import Case, held_out, in_folder
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.grounding.examples import example
from lookonce_evaluation.grounding.layers import bands_of
from lookonce_evaluation.grounding.looking import Looked, look, record
from lookonce_evaluation.grounding.results import Results, write
from lookonce_evaluation.grounding.summary import summarise
from lookonce_evaluation.runs import Run
from lookonce_evaluation.subject import Subject
from lookonce_pruning import parse_window
from lookonce_server.errors import InvalidImageError
from lookonce_server.settings import BUNDLED


def main(arguments: list[str]) -> None:
    """The command."""
    options = _options(arguments)
    settings = settings_for(options.model)
    folder = options.images_folder
    cases = in_folder(folder, options.images) if folder else held_out(options.images)
    subject = Subject.load(options.model, settings, options.device)
    bands = bands_of(subject.runner.num_layers, parse_window(settings.window, subject.runner.num_layers))
    run = Run(
        options.out,
        {
            "command": "analyze attention",
            "checkpoint": subject.fingerprint,
            "describe_prompt": settings.describe_prompt,
            "images": str(folder or "scenes"),
            "bands": [band.label for band in bands],
            "top_k": options.top_k,
        },
    )
    records = run.over(cases, lambda c: record(_looked(subject, c), bands, options.top_k), name=lambda c: c.name)
    shown = [example(_looked(subject, case), bands[:-1], options.top_k) for case in cases[: options.examples]]
    ungrounded = _why_not(folder, records)
    images = f"pictures of {folder}" if folder else "drawn scenes"
    facts = _facts(subject, options.model, records, images)
    command = shlex.join(["lookonce", "analyze", "attention", *arguments])
    write(run, Results(facts, command, summarise(records), bands, options.top_k, shown, ungrounded))


def _looked(subject: Subject, case: Case) -> Looked:
    """Look at an image.

    Raises:
        EvaluationError: the model does not take it.
    """
    try:
        return look(subject, case)
    except InvalidImageError as error:
        raise EvaluationError(f"{case.name}: {error}") from error


def _why_not(folder: Path | None, records: Sequence[dict[str, Any]]) -> str:
    """Why nothing is grounded; nothing where something is."""
    if folder:
        return "these are pictures of your own. Run without --images-folder, on drawn scenes."
    if not records[0]["grounding"]:
        return "where in a picture this model's tokens are is not known."
    if not any(one["grounding"]["right"] for one in records):
        return "no description names an object of its scene by its colour and kind, with nothing wrong said of it."
    return ""


def _facts(subject: Subject, name: str, records: Sequence[dict[str, Any]], images: str) -> dict[str, str]:
    """Of the model and the run, for people."""
    config = subject.runner.model.config
    text = config.get_text_config()
    grids = {tuple(one["grid"]) for one in records}
    grid = " x ".join(map(str, grids.pop())) if len(grids) == 1 else "of several sizes"
    return {
        "Model": "the bundled model" if name == BUNDLED else name,
        "Architecture": f"{type(subject.runner.model).__name__}, {text.model_type}",
        "Layers": str(subject.runner.num_layers),
        "Heads": f"{text.num_attention_heads}, and {text.num_key_value_heads} of keys and values",
        "Fingerprint": subject.fingerprint[:16],
        "Images": f"{len(records)} {images}",
        "Image tokens": grid,
        "Describe prompt": subject.describe_prompt,
    }


def _options(arguments: list[str]) -> argparse.Namespace:
    made = parser("analyze attention", __doc__, images=200)
    made.add_argument(
        "--images-folder",
        type=Path,
        help="describe the pictures of this folder instead of drawn scenes; grounding needs scenes, and is left out",
    )
    made.add_argument("--examples", type=positive, default=3, help="images that are shown [%(default)s]")
    made.add_argument("--top-k", type=positive, default=3, help="patches named of each word's map [%(default)s]")
    return made.parse_args(arguments)
