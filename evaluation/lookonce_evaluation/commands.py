"""What the commands that ask a checkpoint have in common."""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.subject import Subject
from lookonce_pruning import ScoreQueries, UnknownSelectionError, get_selection, parse_window
from lookonce_server.settings import BUNDLED, Settings


def parser(name: str, description: str | None, *, images: int) -> argparse.ArgumentParser:
    """A command line with `model`, `images` and `out`.

    Args:
        name: the command's, as in "eval retention".
        description: what it does; the module's docstring.
        images: how many by default.
    """
    made = argparse.ArgumentParser(
        prog=f"lookonce {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", default=BUNDLED, help="checkpoint folder, hub name, or 'bundled' [%(default)s]")
    made.add_argument("--device", default="cpu", help="'cpu', 'cuda' or 'cuda:1' [%(default)s]")
    made.add_argument("--images", type=positive, default=images, help="how many images [%(default)s]")
    made.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / name.replace(" ", "-"),
        help="folder of the results; the same command goes on where one was interrupted [%(default)s]",
    )
    return made


def context_options(made: argparse.ArgumentParser, retentions: Sequence[float]) -> argparse.ArgumentParser:
    """Add `retentions`, and `selection`, `window` and `rows`, for which `settings_of` has the defaults."""
    listed = ",".join(f"{share:g}" for share in retentions)
    made.add_argument("--retentions", type=shares, default=retentions, help=f"shares of the image tokens [{listed}]")
    made.add_argument("--selection", type=selection, help="how they are chosen [the server's setting]")
    made.add_argument("--window", help="layers whose attention is scored [the server's setting]")
    made.add_argument("--rows", choices=get_args(ScoreQueries), help="whose attention is scored [the server's setting]")
    return made


def settings_of(options: argparse.Namespace) -> Settings:
    """`settings_for` the command line's model, with what `context_options` take in their place."""
    given = {name: getattr(options, name) for name in ("selection", "window", "rows")}
    return settings_for(options.model, **{name: value for name, value in given.items() if value is not None})


def settings_for(model: str, **given: Any) -> Settings:
    """The settings that the server would have for a model, its profile's among them, but for those given."""
    return Settings(model=model, **given).with_profile()


def window_of(settings: Settings, subject: Subject) -> range:
    """The layers of the window.

    Raises:
        EvaluationError: the model does not have them.
    """
    try:
        return parse_window(settings.window, subject.runner.num_layers)
    except ValueError as error:
        raise EvaluationError(f"--window: {error}") from None


def selection(text: str) -> str:
    """An argument that names a selection."""
    try:
        get_selection(text)
    except (UnknownSelectionError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def shares(text: str) -> tuple[float, ...]:
    """An argument that lists shares, largest first."""
    try:
        found = {float(one) for one in text.split(",")}
    except ValueError:
        found = {0.0}
    if not all(0 < one < 1 for one in found):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers between 0 and 1, as in 0.2,0.05")
    return tuple(sorted(found, reverse=True))


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number above 0")
    return int(text)


def parse_arguments(name: str, description: str | None, *, images: int) -> argparse.Namespace:
    """The command line's `model`, `images` and `json`, of the commands that are modules."""
    made = argparse.ArgumentParser(prog=f"python -m lookonce_evaluation.{name}", description=description)
    made.add_argument("--model", default=BUNDLED, help="checkpoint folder [the bundled one]")
    made.add_argument("--images", type=positive, default=images, help="held-out scenes [%(default)s]")
    made.add_argument("--json", type=Path, help="also write the rows there")
    return made.parse_args()


def write_rows(rows: Iterable[Any], path: Path | None) -> None:
    """Write named tuples as JSON, where that was asked for."""
    if path:
        path.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")
