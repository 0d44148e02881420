"""SIGTERM and SIGINT, from the server's first line to its last. Nothing heavy is imported here."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, Self


class Signals:
    """Has the first signal stop the server, in the way that fits how far it has come; a second ends it at once.

    Entered in the main thread, before anything else; left, signals do what they did before. What stops the server may
    raise nothing, and may be called at any line of the main thread's.
    """

    def __init__(self) -> None:
        self._received = False
        self._stop: Callable[[], object] = lambda: end(0)  # there is nothing yet that would need an end of its own
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop_by(self, stop: Callable[[], object]) -> None:
        """Have the first signal call this from now on; it is called now, if that has come already."""
        self._stop = stop
        if self._received:
            stop()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            end(0)
        self._received = True
        self._stop()


def end(code: int) -> NoReturn:
    """End the process now. What it started ends with it, and its temporary files are swept at the next start.

    Python itself would first wait for its threads, and take torch apart, which takes seconds.
    """
    with contextlib.suppress(Exception):  # called by a signal, in the middle of writing
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
