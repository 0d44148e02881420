"""A real redis-server of a benchmark's own."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

START_SECONDS = 20.0


class RedisProcess:
    """Runs while its `with` block does, on a free port and a unix socket, with its own temporary folder.

    Args:
        persistent: keep an append-only file, so that data survive `kill`.

    Attributes:
        url: over TCP.
        socket_url: over the unix socket.

    Raises:
        SystemExit: no redis-server is found, or it does not come up.
    """

    def __init__(self, *, persistent: bool = False) -> None:
        program = os.environ.get("LOOKONCE_TEST_REDIS_SERVER") or shutil.which("redis-server")
        if program is None:
            raise SystemExit("no redis-server found; install one, or name it in LOOKONCE_TEST_REDIS_SERVER")
        self._program = program
        self._persistent = persistent
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="lookonce-redis-")
        self.socket_url = f"unix://{self._folder.name}/redis.sock"
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start it, and return once it answers."""
        folder = self._folder.name
        place = ["--bind", "127.0.0.1", "--port", str(self._port), "--unixsocket", f"{folder}/redis.sock"]
        keep = ["--save", "", "--appendonly", "yes" if self._persistent else "no", "--dir", folder]
        self._process = subprocess.Popen([self._program, *place, *keep], stdout=subprocess.DEVNULL)  # noqa: S603
        deadline = time.monotonic() + START_SECONDS
        with redis.Redis(port=self._port, socket_timeout=1) as client:
            while not _answers(client):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{self._program} did not come up")
                time.sleep(0.02)

    def kill(self) -> None:
        """Kill it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def forget(self) -> None:
        """While it is down, delete what it had written: it comes back empty."""
        for kept in Path(self._folder.name).glob("appendonly*"):  # a folder from Redis 7 on
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink()


def _answers(client: redis.Redis) -> bool:
    try:
        client.ping()
    except (redis.ConnectionError, redis.TimeoutError):  # also while it loads its data
        return False
    return True


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
