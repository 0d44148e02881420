"""What the commands that ask a checkpoint have in common."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lookonce_evaluation.errors import EvaluationError
from lookonce_scenes import CHECKPOINT


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
    made.add_argument("--model", default=str(CHECKPOINT), help="checkpoint folder or hub name [the bundled one]")
    made.add_argument("--device", default="cpu", help="'cpu', 'cuda' or 'cuda:1' [%(default)s]")
    made.add_argument("--images", type=positive, default=images, help="how many images [%(default)s]")
    made.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / name.replace(" ", "-"),
        help="folder of the results; the same command goes on where one was interrupted [%(default)s]",
    )
    return made


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number above 0")
    return int(text)


def parse_arguments(name: str, description: str | None, *, images: int) -> argparse.Namespace:
    """The command line's `model`, `images` and `json`, of the commands that are modules."""
    made = argparse.ArgumentParser(prog=f"python -m lookonce_evaluation.{name}", description=description)
    made.add_argument("--model", default=str(CHECKPOINT), help="checkpoint folder [the bundled one]")
    made.add_argument("--images", type=positive, default=images, help="held-out scenes [%(default)s]")
    made.add_argument("--json", type=Path, help="also write the rows there")
    return made.parse_args()


def write_rows(rows: Iterable[Any], path: Path | None) -> None:
    """Write named tuples as JSON, where that was asked for."""
    if path:
        path.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, by name.

    Raises:
        EvaluationError: there are none.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if not found:
        raise EvaluationError(f"{folder}: expected a folder with .png, .jpg or .webp pictures in it")
    return found
