"""Measure lookonce beside vLLM's own server, under vLLM's own load: `make bench-serve`.

Both servers run the same vLLM with the same options, and both are up all the time. `vllm bench serve` asks them in
turn, by its `custom_image` file: ten questions about each of twenty pictures, whose bytes are sent with every question.
In the first run of a server the pictures are new to it; in the later ones vLLM has them in its prefix cache, and
lookonce has their contexts.
"""

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from lookonce_evaluation.bench import command
from lookonce_evaluation.bench.fixtures import LookonceServer, environment, free_port, wait_until
from lookonce_evaluation.bench.images import LLAVA, SCENES, Model
from lookonce_evaluation.bench.methods import png
from lookonce_evaluation.bench.timing import Spread
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.options import positive
from lookonce_evaluation.tables import record_table

LOOKONCE, VLLM = "lookonce", "vllm serve"
QUESTIONS = (
    "What is at the center?",
    "How many objects are there?",
    "Is there a star?",
    "What color is the largest object?",
    "Find the red object.",
    "Is there a circle?",
    "How many circles are there?",
    "What shape is at the top left?",
    "Is there anything blue?",
    "Describe the image.",
)
ANSWER_TOKENS = 8
_NAME = "model"
_START_SECONDS = 480.0
# `vllm bench serve` without `vllm`, which looks for a package that the build for CPUs is not called.
_BENCH = """
import argparse, lookonce_torch
lookonce_torch.install()
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


class Plan(NamedTuple):
    """The extent of a run."""

    models: tuple[Model, ...] = (SCENES, LLAVA)
    pictures: int = 20
    questions: int = 10
    concurrencies: tuple[int, ...] = (1, 8)
    rounds: int = 3


QUICK = Plan((SCENES,), pictures=2, questions=2, concurrencies=(2,), rounds=0)


def write_questions(folder: Path, plan: Plan, side: int | None) -> Path:
    """Write pictures and a `custom_image` file; each question is asked about all pictures in turn."""
    files = [folder / f"{number}.png" for number in range(plan.pictures)]
    for number, file in enumerate(files):
        file.write_bytes(png(5_000 + number, side))
    pairs = itertools.product(QUESTIONS[: plan.questions], files)
    lines = [json.dumps({"prompt": question, "image_files": [str(file)]}) for question, file in pairs]
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines))
    return path


@contextmanager
def serve_vllm(path: Path, model: Model, folder: Path) -> Iterator[str]:
    """Run vLLM's own server; yield its URL.

    Raises:
        EvaluationError: it does not start; the message holds its log.
    """
    port, log = free_port(), folder / "vllm.log"
    url = f"http://127.0.0.1:{port}"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in model.options.items()]
    arguments = [f"--model={path}", f"--served-model-name={_NAME}", f"--port={port}", "--host=127.0.0.1"]
    arguments += [f"--dtype={str(model.dtype).removeprefix('torch.')}", "--enforce-eager", *options]
    run = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(run, stdout=output, stderr=output, env=environment())  # noqa: S603

    def is_ready() -> bool:
        if process.poll() is not None:
            raise EvaluationError(f"vLLM's server ended:\n{log.read_text(errors='replace')}")
        try:
            return httpx2.get(f"{url}/health", trust_env=False).status_code == 200
        except httpx2.TransportError:
            return False

    try:
        wait_until(is_ready, "vLLM's server is ready", _START_SECONDS)
        yield url
    finally:
        process.terminate()
        process.wait()


def serve_lookonce(path: Path, model: Model) -> LookonceServer:
    """Return a server of ours over the same vLLM, to be run in a `with` block."""
    dtype = str(model.dtype).removeprefix("torch.")
    options = [f"--vllm-{name.replace('_', '-')}={value}" for name, value in model.options.items()]
    arguments = ["--engine=vllm", f"--model={path}", f"--served-name={_NAME}", f"--dtype={dtype}", "--profile=none"]
    return LookonceServer(*arguments, "--vllm-enforce-eager", *options)


def ask_all(url: str, questions: Path, tokenizer: Path, concurrency: int) -> dict[str, Any]:
    """Ask all questions of a server, so many at once; return what `vllm bench serve` measured.

    Raises:
        EvaluationError: it failed, or a question did.
    """
    result = questions.with_suffix(".json")
    result.unlink(missing_ok=True)
    count = len(questions.read_text().splitlines())
    arguments = ["--backend=openai-chat", "--endpoint=/v1/chat/completions", f"--base-url={url}", f"--model={_NAME}"]
    arguments += [f"--tokenizer={tokenizer}", "--dataset-name=custom_image", f"--dataset-path={questions}"]
    arguments += ["--enable-multimodal-chat", "--custom-ensure-client-side-data", "--disable-shuffle"]
    arguments += [f"--custom-output-len={ANSWER_TOKENS}", f"--num-prompts={count}", f"--max-concurrency={concurrency}"]
    arguments += ["--save-result", f"--result-dir={result.parent}", f"--result-filename={result.name}"]
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _BENCH, *arguments], capture_output=True, text=True, env=environment(), check=False
    )
    measured = json.loads(result.read_text()) if result.is_file() else {}
    if measured.get("completed") != count:
        raise EvaluationError(f"vllm bench serve: {done.stdout}\n{done.stderr}")
    return dict(measured)


def row_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarize runs: medians over the runs; times in milliseconds."""
    return {
        "first_token_ms": Spread.of(run["median_ttft_ms"] for run in runs),
        "token_ms": Spread.of(run["median_tpot_ms"] for run in runs),
        "requests_per_s": Spread.of(run["request_throughput"] for run in runs),
        "runs": len(runs),
    }


def measure_model(model: Model, plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """Measure both servers with one checkpoint."""
    path = model.write(folder)
    questions = write_questions(folder, plan, model.side)
    runs: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    with serve_vllm(path, model, folder) as vllm_url, serve_lookonce(path, model) as server:
        urls = {VLLM: vllm_url, LOOKONCE: server.url}
        most = max(plan.concurrencies)
        for name, url in urls.items():
            runs[name, most, "new"] = [ask_all(url, questions, path, most)]
        for _, concurrency, (name, url) in itertools.product(range(plan.rounds), plan.concurrencies, urls.items()):
            runs.setdefault((name, concurrency, "known"), []).append(ask_all(url, questions, path, concurrency))
    return [
        {"model": model.label, "pictures": pictures, "at_once": concurrency, "server": name} | row_of(own)
        for (name, concurrency, pictures), own in sorted(
            runs.items(), key=lambda item: (item[0][2:], item[0][1]), reverse=True
        )
    ]


def measure(plan: Plan) -> list[dict[str, Any]]:
    """Measure every checkpoint."""
    rows = []
    for model in plan.models:
        with tempfile.TemporaryDirectory(prefix="lookonce-serve-") as folder:
            rows += measure_model(model, plan, Path(folder))
    return rows


def main(args: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command.parser("serve", __doc__, quick="the small model, four questions about new pictures")
    parser.add_argument("--rounds", type=positive, default=Plan().rounds, help="runs with known pictures [%(default)s]")
    arguments = parser.parse_args(args)
    rows = measure(QUICK if arguments.quick else Plan(rounds=arguments.rounds))
    print(record_table(rows, ".2f"))
    command.write_json(arguments.json, {"rows": rows})


if __name__ == "__main__":
    command.run(main)
