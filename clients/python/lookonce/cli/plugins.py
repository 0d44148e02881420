"""Find the sub-commands of other packages, and load one when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_GROUP = "lookonce.commands"
_OURS = ("lookonce", "lookonce_")  # this package and its siblings in the distribution


def find() -> dict[str, EntryPoint]:
    """Find the sub-commands installed, without importing them."""
    from importlib.metadata import entry_points  # half of the time that a command of ours takes to start

    return {entry.name: entry for entry in entry_points(group=_GROUP)}


def run(command: EntryPoint, argv: list[str]) -> int:
    """Load and call a sub-command, or say how to install a package that it needs."""
    try:
        call = cast(Callable[[list[str]], int], command.load())
        return call(argv)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing.startswith(_OURS):
            raise
        sys.stderr.write(
            f"lookonce {command.name} needs the package {missing!r}, which is not installed.\n"
            "The server's packages come with: pip install 'lookonce[server]', those of eval, analyze and calibrate with"
            " 'lookonce[eval]'\n"
        )
        return 2
