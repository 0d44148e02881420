"""What the commands that ask a checkpoint about held-out scenes have in common."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lookonce_scenes import CHECKPOINT


def parse_arguments(name: str, description: str | None, *, images: int) -> argparse.Namespace:
    """The command line's `model`, `images` and `json`."""
    parser = argparse.ArgumentParser(prog=f"python -m lookonce_evaluation.{name}", description=description)
    parser.add_argument("--model", default=str(CHECKPOINT), help="checkpoint folder [the bundled one]")
    parser.add_argument("--images", type=int, default=images, help="held-out scenes [%(default)s]")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    return parser.parse_args()


def write_rows(rows: Iterable[Any], path: Path | None) -> None:
    """Write named tuples as JSON, where that was asked for."""
    if path:
        path.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")
