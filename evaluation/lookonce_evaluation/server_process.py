"""A real `lookonce serve` of a run's own."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2

START_SECONDS = 300.0
STOP_SECONDS = 60.0
_LISTENING = re.compile(r"^lookonce serves .* at (http://\S+)\. Try", re.MULTILINE)
_RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB", re.MULTILINE)


class ServerProcess:
    """Runs while its `with` block does, on a free port, without the environment's settings and proxies.

    Args:
        arguments: of `lookonce serve`, beside the port.

    Attributes:
        url: where it listens.

    Raises:
        SystemExit: it does not come up, or does not end well; with what it said.
    """

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "lookonce", "serve", "--port", "0", *arguments]
        self.url = ""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="lookonce-server-")
        self._log = Path(self._folder.name) / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=_environment()
            )
        try:
            self._await_ready()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        said = self.log()
        self._folder.cleanup()
        if code != 0 and error is None:
            raise SystemExit(f"the server ended with {code}:\n{said}")

    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def resident_bytes(self) -> int:
        """Of its memory; 0 where the system does not tell."""
        status = Path(f"/proc/{self._process.pid}/status")
        found = _RESIDENT.search(status.read_text()) if status.exists() else None
        return 1024 * int(found[1]) if found else 0

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        with httpx2.Client(timeout=10, trust_env=False) as client:
            while True:
                found = _LISTENING.search(self.log())
                if found and client.get(f"{found[1]}/ready").status_code == 200:
                    self.url = found[1]
                    return
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the server did not come up:\n{self.log()}")
                time.sleep(0.05)


def _environment() -> dict[str, str]:
    unset = re.compile("LOOKONCE_.*|.*PROXY.*", re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if not unset.fullmatch(name)}
