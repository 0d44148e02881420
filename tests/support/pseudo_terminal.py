"""A command at a pseudo-terminal, as a person sees it."""

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

SECONDS = 60.0  # only a failure waits that long
# The terminal becomes the process's own, so that Ctrl-C reaches it, also where whoever runs the tests ignores SIGINT.
_START = (
    "import fcntl, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    " signal.signal(signal.SIGINT, signal.default_int_handler); from lookonce.cli import main; sys.exit(main())"
)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class PseudoTerminal:
    """Runs `lookonce` while its `with` block does.

    Args:
        arguments: of the command.
        environment: of the command, in place of this process's own.

    Attributes:
        output: all that was written so far, control sequences included.
    """

    def __init__(self, *arguments: str, environment: Mapping[str, str]) -> None:
        self._command = [sys.executable, "-c", _START, *arguments]
        self._environment = dict(environment)
        self.output = ""

    def __enter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        self._process = subprocess.Popen(
            self._command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=self._environment,
            start_new_session=True,
        )
        os.close(theirs)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    @property
    def text(self) -> str:
        """All that was written so far, as it reads: without colours and line ends' carriage returns."""
        return _CONTROL.sub("", self.output).replace("\r\n", "\n")

    def type(self, keys: str) -> None:
        """Press keys; "\\x03" is Ctrl-C, "\\x04" Ctrl-D."""
        os.write(self._ours, keys.encode())

    def wait_for(self, text: str, times: int = 1) -> None:
        """Return once a text was written so often."""
        deadline = time.monotonic() + SECONDS
        while self.output.count(text) < times:
            assert self._read(deadline), f"{text!r} is not in {self.output!r}"

    def settle(self) -> None:
        """Return once the command sleeps, and so waits for keys: Python's readline misses a Ctrl-C between two keys."""
        deadline = time.monotonic() + SECONDS
        while Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline, "the command does not come to rest"

    def end(self) -> int:
        """Wait for the command's end; gives its exit code."""
        deadline = time.monotonic() + SECONDS
        while self._read(deadline):
            pass
        return self._process.wait(SECONDS)

    def _read(self, deadline: float) -> bool:
        """Take what was written; False at the end."""
        ready, _, _ = select.select([self._ours], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"nothing more is written after {self.output!r}"
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # how Linux tells that nobody has the terminal open any more
            return False
        self.output += data.decode(errors="replace")
        return bool(data)
