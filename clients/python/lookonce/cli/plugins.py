"""Find the sub-commands of other packages, and load one when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from importlib.metadata import EntryPoint

_GROUP = "lookonce.commands"
_OURS = ("lookonce", "lookonce_")  # this package and its siblings in the distribution


def find() -> dict[str, EntryPoint]:
    """Find the sub-commands installed, without importing them."""
    from importlib.metadata import entry_points  # half of the time that a command of ours takes to start

    return {entry.name: entry for entry in entry_points(group=_GROUP)}


def parsers() -> dict[str, ArgumentParser]:
    """Return the parsers of sub-commands, for completion: those that a module's function `parsers` returns."""
    from importlib import import_module

    found: dict[str, ArgumentParser] = {}
    for module in sorted({entry.module for entry in find().values()}):
        with suppress(ModuleNotFoundError):  # its extra is not installed: its commands are completed by name
            found |= getattr(import_module(module), "parsers", dict)()
    return found


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
