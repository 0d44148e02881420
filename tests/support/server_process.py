"""A real `lookonce serve` in a process of its own, on a free port, with its own temporary folder."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import openai
import psutil
from prometheus_client.parser import text_string_to_metric_families

START_SECONDS = 480.0  # only a failure, or a very busy machine, waits that long
MODEL = "lookonce-scenes"
# The smallest vLLM: 64 blocks of 32 tokens, nothing compiled.
VLLM = ("--engine", "vllm", "--vllm-enforce-eager", "--vllm-kv-cache-memory-bytes=64M", "--vllm-block-size=32")
ENGINES: dict[str, tuple[str, ...]] = {"transformers": (), "vllm": VLLM}
_LISTENING = re.compile(r"^lookonce serves .* at (http://\S+)\. Try", re.MULTILINE)


class LookonceServer:
    """Runs while its `with` block does, with the bundled model unless the arguments say otherwise.

    Args:
        arguments: of `lookonce serve`, beside the port.
        open_files: limits on the files that the process may open, as "soft:hard"; None: those of this one.
    """

    def __init__(self, *arguments: str, open_files: str | None = None) -> None:
        self._arguments = arguments
        self._limited = () if open_files is None else ("prlimit", f"--nofile={open_files}")
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="lookonce-server-")
        try:
            self.start()
        except BaseException:
            self._stop()
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        code = self._stop()
        said = self.log()
        self._folder.cleanup()
        assert code == 0 or error is not None, said

    def start(self) -> None:
        """Start it, and return once it listens and says what it should of its store and its model."""
        self.launch()
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not (found := _LISTENING.search(self.log())):
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        self.url = found[1]
        while self.get("/ready").status_code != 200:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def launch(self) -> None:
        """Begin to start it, and do not wait."""
        command = [*self._limited, sys.executable, "-m", "lookonce", "serve", "--port", "0", *self._arguments]
        self._log.write_bytes(b"")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self._folder.name, env=environment()
            )

    def restart(self) -> None:
        """Stop it as an operator would, and start it anew; the URL changes."""
        assert self._stop() == 0, self.log()
        self.start()

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def begin_to_stop(self) -> None:
        """Tell it to stop, and do not wait."""
        assert self._process is not None
        self._process.terminate()

    def wait(self) -> int:
        """Return its exit code once it has ended."""
        assert self._process is not None
        return self._process.wait(120)

    def kill(self) -> None:
        """Kill it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """Stop its process in the middle of what it does: connections stay, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a frozen server go on; nothing if it was not frozen, or was killed."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def kill_children(self) -> None:
        """Kill the processes it has started, as the kernel does when memory runs out."""
        assert self._process is not None
        for child in psutil.Process(self._process.pid).children(recursive=True):
            child.kill()

    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text()

    def log_with(self, *texts: str, seconds: float = 120) -> str:
        """Return what it has written, in whole lines, once each text is there: a request's line follows its answer."""
        deadline = time.monotonic() + seconds
        while missing := [text for text in texts if text not in (lines := self.log().rpartition("\n")[0])]:
            assert time.monotonic() < deadline, f"{missing} not in the log:\n{lines}"
            time.sleep(0.02)
        return lines

    def http(self, **options: Any) -> httpx2.Client:
        """A plain client, which asks once."""
        return httpx2.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def get(self, path: str) -> httpx2.Response:
        """A plain GET."""
        with self.http() as client:
            return client.get(path)

    def post(self, path: str, **options: Any) -> httpx2.Response:
        """A plain POST."""
        with self.http() as client:
            return client.post(path, **options)

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value, summed over the labels that are not given."""
        return self.metrics(found=(name, labels))["found"]

    def metrics(self, **wanted: tuple[str, dict[str, str]]) -> dict[str, float]:
        """Values of several metrics at one moment, each wanted by its name and labels; see `metric`."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples]
        return {
            title: sum(s.value for s in samples if s.name == f"lookonce_{name}" and labels.items() <= s.labels.items())
            for title, (name, labels) in wanted.items()
        }

    def wait_for(self, name: str, value: float, seconds: float = 120, **labels: str) -> None:
        """Return once a metric has that value."""
        deadline = time.monotonic() + seconds
        while (found := self.metric(name, **labels)) != value:
            assert time.monotonic() < deadline, f"lookonce_{name} {labels} is {found}, not {value}"
            time.sleep(0.05)

    def openai(self, api_key: str = "any", **options: Any) -> openai.OpenAI:
        """OpenAI's own client, which asks once and reports what it got."""
        http = openai.DefaultHttpx2Client(trust_env=False)
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, http_client=http, **options)

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "server.log"

    def _stop(self) -> int | None:
        """The exit code; 0 too where it was killed, and None where it had to be now."""
        if self._process is None:
            return 0
        self._process.terminate()
        self.go_on()
        try:
            return self._process.wait(120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None
        finally:
            self._process = None


def environment() -> dict[str, str]:
    """This process's environment without settings and proxies, with one thread for arithmetic and nothing compiled."""
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith("LOOKONCE_") and "proxy" not in k.lower()}
    return kept | {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
