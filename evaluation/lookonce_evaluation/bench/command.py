"""Share the benchmarks' command lines."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from lookonce_evaluation.errors import EvaluationError


def parser(name: str, description: str | None, *, quick: str) -> argparse.ArgumentParser:
    """Return a command line with `--quick` and `--json`.

    Args:
        name: the benchmark's module.
        description: what it does; the module's docstring.
        quick: what `--quick` does.
    """
    arguments = argparse.ArgumentParser(
        prog=f"python -m lookonce_evaluation.bench.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--quick", action="store_true", help=f"{quick}: does it work?")
    arguments.add_argument("--json", type=Path, help="write the figures here too")
    return arguments


def write_json(path: Path | None, figures: Any) -> None:
    """Write the figures and the machine to a file, if there is a path."""
    if path is not None:
        machine = {"processor": platform.machine(), "cores": os.cpu_count()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine, **figures}, indent=1, default=asdict) + "\n")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit; print an EvaluationError as one line."""
    try:
        sys.exit(main())
    except EvaluationError as error:
        sys.exit(str(error))
