"""Handle SIGTERM and SIGINT, from the server's first line to its last."""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, Self

_EXIT_SECONDS = 5.0  # that what is registered for the exit may take


class Signals:
    """Let the first signal stop the server, and the second end it.

    The first calls whatever fits how far the server has come. From then on signals have their default action: the
    kernel ends the process at a second one, whatever hangs in it.

    Entered in the main thread, before anything else; left, signals do what they did before. What stops the server may
    raise nothing, and may be called at any line of the main thread's.
    """

    def __init__(self) -> None:
        self._received = False
        self._stop: Callable[[], object] = lambda: end(0)  # nothing is there yet that would need another end
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop_by(self, stop: Callable[[], object]) -> None:
        """Call this at the first signal, from now on; at once, if that has come already."""
        self._stop = stop
        if self._received:
            stop()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        self._received = True
        self._stop()


def end(code: int) -> NoReturn:
    """Run what is registered for the exit, and end the process.

    Python itself would first wait for its threads, which may be loading a model, and then take torch apart, which takes
    seconds. The processes that this one started end with it, and its temporary files are swept at the next start.

    Args:
        code: the exit code.
    """
    end_after(_EXIT_SECONDS, code, os._exit)
    atexit._run_exitfuncs()  # no public name; logging and libraries are written out and closed by it
    with contextlib.suppress(Exception):  # called by a signal, in the middle of writing
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def end_after(seconds: float, code: int, by: Callable[[int], object] = end) -> None:
    """End the process after a time, unless it has ended by itself.

    Args:
        seconds: until then.
        code: the exit code.
        by: ends it.
    """
    timer = threading.Timer(seconds, by, [code])
    timer.daemon = True
    timer.start()
