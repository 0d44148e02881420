"""A real `lookonce serve`, with what tests do to it and ask of it."""

import signal
import time
from typing import Any

import httpx2
import openai
from prometheus_client.parser import text_string_to_metric_families

from lookonce_evaluation.bench import fixtures

MODEL = "lookonce-scenes"
# The smallest vLLM: 64 blocks of 32 tokens, nothing compiled.
VLLM = ("--engine", "vllm", "--vllm-enforce-eager", "--vllm-kv-cache-memory-bytes=64M", "--vllm-block-size=32")
ENGINES: dict[str, tuple[str, ...]] = {"transformers": (), "vllm": VLLM}


class LookonceServer(fixtures.LookonceServer):
    """See `fixtures.LookonceServer`; here with one thread for arithmetic and nothing compiled.

    Args:
        arguments: of `lookonce serve`, beside the port.
        open_files: limits on the files that the process may open, as "soft:hard"; None: those of this one.
    """

    variables = {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}  # noqa: RUF012

    def __init__(self, *arguments: str, open_files: str | None = None) -> None:
        super().__init__(*arguments)
        if open_files is not None:
            self.command = ["prlimit", f"--nofile={open_files}", *self.command]

    @property
    def is_running(self) -> bool:
        """Whether it was started, and neither stopped nor killed since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.process.pid

    def restart(self) -> None:
        """Stop it as an operator would, and start it anew; the URL changes."""
        assert self.stop() == 0, self.log()
        self.start()

    def kill(self) -> None:
        """Kill it as a crash would."""
        self.process.kill()
        self.process.wait()
        self._process = None

    def http(self, **options: Any) -> httpx2.Client:
        """Return a plain client, which sends each request once."""
        return httpx2.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def get(self, path: str) -> httpx2.Response:
        """Send a plain GET request."""
        with self.http() as client:
            return client.get(path)

    def post(self, path: str, **options: Any) -> httpx2.Response:
        """Send a plain POST request."""
        with self.http() as client:
            return client.post(path, **options)

    def begin_to_stop(self) -> None:
        """Tell it to stop, and do not wait."""
        self.process.terminate()

    def wait(self) -> int:
        """Return its exit code once it has ended."""
        return self.process.wait(120)

    def freeze(self) -> None:
        """Stop its process in the middle of what it does: connections stay, and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a frozen server go on; nothing if it was not frozen, or was killed."""
        if self.is_running:
            self.process.send_signal(signal.SIGCONT)

    def log_with(self, *texts: str, seconds: float = 120) -> str:
        """Return what it has written, in whole lines, once each text is there: a request's line follows its answer."""
        deadline = time.monotonic() + seconds
        while missing := [text for text in texts if text not in (lines := self.log().rpartition("\n")[0])]:
            assert time.monotonic() < deadline, f"{missing} not in the log:\n{lines}"
            time.sleep(0.02)
        return lines

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


def environment() -> dict[str, str]:
    """This process's environment as servers have it, for commands of a test's own."""
    return fixtures.environment() | LookonceServer.variables
