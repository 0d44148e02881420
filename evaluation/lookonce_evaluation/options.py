"""Command-line options that several commands share."""

import argparse
import shutil
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from lookonce_evaluation.data.folder import in_folder
from lookonce_evaluation.data.scenes import Case, held_out
from lookonce_pruning import ScoreQueries, UnknownSelectionError, get_selection
from lookonce_server.settings import BUNDLED, Settings

_RESUMES = "folder of the results; the same command goes on where one was interrupted [%(default)s]"


def bare_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Make a parser with `--device` and `--out`."""
    width = min(shutil.get_terminal_size().columns, 120) - 2
    paragraphs = [
        textwrap.fill(text, width, break_on_hyphens=False) for text in (description or "").strip().split("\n\n")
    ]
    command = argparse.ArgumentParser(
        prog=f"lookonce {name}",
        description="\n\n".join(paragraphs),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--device", metavar="DEVICE", default="cpu", help="'cpu', 'cuda' or 'cuda:1' [%(default)s]")
    command.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("runs") / name.replace(" ", "-"), help=_RESUMES
    )
    return command


def parser(name: str, description: str | None, *, images: int) -> argparse.ArgumentParser:
    """Make a parser with `--model`, `--device`, `--images` and `--out`."""
    command = bare_parser(name, description)
    command.add_argument(
        "--model", metavar="MODEL", default=BUNDLED, help="checkpoint folder, hub name, or 'bundled' [%(default)s]"
    )
    command.add_argument("--images", metavar="N", type=positive, default=images, help="how many images [%(default)s]")
    return command


def context_options(command: argparse.ArgumentParser, retentions: Sequence[float]) -> argparse.ArgumentParser:
    """Add `--retentions`, `--selection`, `--window` and `--rows`."""
    listed = ",".join(f"{share:g}" for share in retentions)
    add = command.add_argument
    add(
        "--retentions", metavar="SHARES", type=shares, default=retentions, help=f"shares of the image tokens [{listed}]"
    )
    add("--selection", metavar="NAME", type=selection, help="how they are chosen [the server's setting]")
    add("--window", metavar="LAYERS", help="layers whose attention is scored [the server's setting]")
    add("--rows", choices=get_args(ScoreQueries), help="whose attention is scored [the server's setting]")
    return command


def settings_of(options: argparse.Namespace) -> Settings:
    """Make the settings of a command line with `context_options`."""
    values = {name: getattr(options, name) for name in ("selection", "window", "rows")}
    return settings_for(options.model, **{name: value for name, value in values.items() if value is not None})


def settings_for(model: str, **values: Any) -> Settings:
    """Make the server's settings for a model, its profile included."""
    return Settings(model=model, **values).with_profile()


def cases_of(options: argparse.Namespace) -> list[Case]:
    """Read `--images` pictures of `--images-folder`, or draw as many scenes."""
    folder, count = options.images_folder, options.images
    return in_folder(folder, count) if folder else held_out(count)


def selection(text: str) -> str:
    """Parse the name of a selection."""
    try:
        get_selection(text)
    except (UnknownSelectionError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def shares(text: str) -> tuple[float, ...]:
    """Parse a list of shares; the largest comes first."""
    try:
        values = {float(part) for part in text.split(",")}
    except ValueError:
        values = {0.0}
    if not all(0 < value < 1 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers between 0 and 1, as in 0.2,0.05")
    return tuple(sorted(values, reverse=True))


def positive(text: str) -> int:
    """Parse a count."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number above 0")
    return int(text)


def number(accepts: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """Make a parser of numbers."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not accepts(value):
            raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")
        return value

    return parse
