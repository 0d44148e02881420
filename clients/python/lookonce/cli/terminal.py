"""Write to a terminal or a pipe: colours, progress, no control characters."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

ColorChoice = Literal["auto", "always", "never"]

_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_CLEAR_LINE = "\r\x1b[K"
_REDRAW_SECONDS = 0.2


class Terminal:
    """Write answers to standard output, progress and errors to standard error.

    Args:
        color: `auto` colours the output of a terminal, unless NO_COLOR is set or TERM is `dumb`.
        environ: the environment.

    Attributes:
        is_tty: whether standard output is a terminal, so that answers are streamed.
    """

    def __init__(self, color: ColorChoice, environ: Mapping[str, str]) -> None:
        is_capable = environ.get("TERM", "dumb") != "dumb"
        self.is_tty = sys.stdout.isatty()
        wants_color = self.is_tty and is_capable and not environ.get("NO_COLOR")
        self._has_color = color == "always" or (color == "auto" and wants_color)
        self._has_progress = sys.stderr.isatty() and is_capable

    def print(self, text: str = "") -> None:
        """Write a line."""
        self.write(f"{text}\n")

    def write(self, text: str) -> None:
        """Write text without a line end, and flush it."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def print_error(self, text: str) -> None:
        """Write a line to standard error."""
        sys.stderr.write(f"lookonce: {one_line(text)}\n")
        sys.stderr.flush()

    def bold(self, text: str) -> str:
        """Return text in bold."""
        return f"{_BOLD}{text}{_PLAIN}" if self._has_color else text

    def dim(self, text: str) -> str:
        """Return text dimmed."""
        return f"{_DIM}{text}{_PLAIN}" if self._has_color else text

    def prompt(self, text: str) -> str:
        """Return a prompt for `input` that marks its control characters for line editing."""
        return f"\1{_BOLD}\2{text}\1{_PLAIN}\2" if self._has_color and "readline" in sys.modules else text

    def stream(self, pieces: Iterator[str], progress: Callable[[], str]) -> None:
        """Write pieces of text as they come, with progress before the first one."""
        with self._progress_line(progress):
            piece = next(pieces, "")
        try:
            while piece:
                self.write(printable(piece))
                piece = next(pieces, "")
        finally:
            self.print()

    @contextmanager
    def _progress_line(self, progress: Callable[[], str]) -> Iterator[None]:
        """Show a line with the progress and the seconds so far, until the block ends."""
        if not self._has_progress:
            yield
            return
        started, ended = time.monotonic(), threading.Event()

        def draw() -> None:
            while not ended.is_set():
                sys.stderr.write(f"{_CLEAR_LINE}{progress()}… {time.monotonic() - started:.0f} s")
                sys.stderr.flush()
                ended.wait(_REDRAW_SECONDS)

        thread = threading.Thread(target=draw, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()


def printable(text: str) -> str:
    """Replace control characters other than line ends and tabs."""
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


def one_line(text: str) -> str:
    """Join a text's lines and replace its control characters."""
    return " ".join(printable(text).split())
