"""Where a command writes: colours and progress for those who watch, and nothing that could steer a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

ColorChoice = Literal["auto", "always", "never"]

_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_CLEARED_LINE = "\r\x1b[K"
_REDRAWN_SECONDS = 0.2


class Terminal:
    """Writes answers and facts to standard output, progress and complaints to standard error.

    Args:
        color: `auto` colours what a terminal shows, unless NO_COLOR is set or TERM is `dumb`.
        environ: the environment.

    Attributes:
        is_watched: standard output is a terminal, so answers are shown as they come.
    """

    def __init__(self, color: ColorChoice, environ: Mapping[str, str]) -> None:
        is_able = environ.get("TERM", "dumb") != "dumb"
        self.is_watched = sys.stdout.isatty()
        wants_color = self.is_watched and is_able and not environ.get("NO_COLOR")
        self._has_color = color == "always" or (color == "auto" and wants_color)
        self._has_progress = sys.stderr.isatty() and is_able

    def say(self, text: str = "") -> None:
        """Write a line."""
        self.write(f"{text}\n")

    def write(self, text: str) -> None:
        """Write what need not be a whole line, at once."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def complain(self, text: str) -> None:
        """Write a line to standard error."""
        sys.stderr.write(f"lookonce: {plain(text)}\n")
        sys.stderr.flush()

    def bold(self, text: str) -> str:
        """Text that stands out."""
        return f"{_BOLD}{text}{_PLAIN}" if self._has_color else text

    def dim(self, text: str) -> str:
        """Text that stands back."""
        return f"{_DIM}{text}{_PLAIN}" if self._has_color else text

    def prompt(self, text: str) -> str:
        """A prompt for `input`: line editing is told which of its characters take no room."""
        return f"\1{_BOLD}\2{text}\1{_PLAIN}\2" if self._has_color and "readline" in sys.modules else text

    def show(self, pieces: Iterator[str], doing: Callable[[], str]) -> None:
        """Write pieces of text as they come, and end the line; `doing` says what is done before the first one."""
        with self._progress(doing):
            piece = next(pieces, "")
        try:
            while piece:
                self.write(printable(piece))
                piece = next(pieces, "")
        finally:
            self.say()

    @contextmanager
    def _progress(self, doing: Callable[[], str]) -> Iterator[None]:
        """A line that tells what is done, and for how long, gone when the block ends."""
        if not self._has_progress:
            yield
            return
        begun, ended = time.monotonic(), threading.Event()

        def draw() -> None:
            while not ended.is_set():
                sys.stderr.write(f"{_CLEARED_LINE}{doing()}… {time.monotonic() - begun:.0f} s")
                sys.stderr.flush()
                ended.wait(_REDRAWN_SECONDS)

        drawing = threading.Thread(target=draw, daemon=True)
        drawing.start()
        try:
            yield
        finally:
            ended.set()
            drawing.join()
            sys.stderr.write(_CLEARED_LINE)
            sys.stderr.flush()


def printable(text: str) -> str:
    """A model's text, in lines, without any other control characters."""
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


def plain(text: str) -> str:
    """A model's text in one line, without control characters."""
    return " ".join(printable(text).split())
