"""What a later question costs in the embedded engine, four methods side by side: `make bench`.

- full pass: the whole image again;
- full KV: everything kept, from memory (what a prefix cache does at best);
- compressed: the context at the chosen retention, from memory, and from a real redis-server.

Each method starts where a server does: at the image's bytes, or at the context's id. One run measures all of them in
turn, round by round, so that what else the machine does falls on all alike. Times are medians with half of the
quartiles' distance; ratios are what to compare.
"""

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lookonce_cache import Store
from lookonce_evaluation.bench import command
from lookonce_evaluation.bench.checkpoints import write_llava
from lookonce_evaluation.bench.methods import (
    FromContext,
    FullPass,
    Method,
    about,
    describe_picture,
    full_pass,
    open_memory,
    png,
    redis_store,
)
from lookonce_evaluation.bench.timing import AnswerTimes, Spread, time_answer, time_describe
from lookonce_evaluation.tables import header, line
from lookonce_scenes import CHECKPOINT
from lookonce_server.app import describe_plan
from lookonce_server.engines.base import Engine, Sampling
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.settings import Settings

SIZES = (196, 576, 1024, 2304)
HEADER = header(
    *("model", "image tokens", "a later question by", "first token, ms", "faster", "whole answer, ms", "faster"),
    "KiB kept",
)
_QUESTION = "How many objects are there in the image?"
_DESCRIBE_TOKENS = 16
_SETTINGS = Settings()

Times = dict[Method, list[AnswerTimes]]


class Stores(NamedTuple):
    """Where contexts are kept."""

    memory: Store
    redis: Store


@asynccontextmanager
async def loaded(path: Path, dtype: torch.dtype) -> AsyncIterator[Engine]:
    """The embedded engine on the CPU."""
    prompt = _SETTINGS.describe_prompt
    engine = await TransformersEngine.load(
        str(path), dtype=dtype, device="cpu", describe_prompt=prompt, max_running=1, max_queue=8
    )
    try:
        yield engine
    finally:
        await engine.close()


async def measure_methods(engine: Engine, stores: Stores, rounds: int, tokens: int) -> Times:
    """Time answers by every method."""
    contexts = await describe_picture(engine, png(1), _SETTINGS, _DESCRIBE_TOKENS)
    methods: list[Method] = [
        FullPass(engine, None),
        FromContext("full KV, memory", engine, stores.memory, contexts.everything, contexts.plan),
        FromContext("compressed, memory", engine, stores.memory, contexts.compressed, contexts.plan),
        FromContext("compressed, Redis", engine, stores.redis, contexts.compressed, contexts.plan),
    ]
    times: Times = {method: [] for method in methods}
    for number in range(rounds + 1):
        for method in methods:
            async with method.prepare([_QUESTION], Sampling(tokens)) as (ask,):
                answer_times = await time_answer(ask)
            if number:  # the first round warms up
                times[method].append(answer_times)
    return times


def rows(model: str, image_tokens: int, times: Times) -> list[dict[str, Any]]:
    """Return the figures of one checkpoint."""
    return [
        {
            "model": model,
            "image_tokens": image_tokens,
            "method": method.name,
            "first_token_ms": Spread.of_seconds(answer.first_token for answer in answers),
            "answer_ms": Spread.of_seconds(answer.total for answer in answers),
            "bytes": method.nbytes,
        }
        for method, answers in times.items()
    ]


def table_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table's lines of one checkpoint; the others are compared with the first method."""
    lines = []
    for row in rows:
        cells = [row["model"], row["image_tokens"], row["method"]]
        for name in ("first_token_ms", "answer_ms"):
            cells += [row[name], f"{rows[0][name].median / row[name].median:.1f}x"]
        lines.append(line([*cells, f"{row['bytes'] / 1024:.0f}" if row["bytes"] else "-"]))
    return lines


async def recording_cost(engine: Engine, rounds: int) -> str:
    """Measure what a describe pass costs beside a full pass that says the same: recording, selecting and packing."""
    plan = replace(describe_plan(_SETTINGS, engine), max_tokens=128)
    image = png(1)
    say_the_same = partial(full_pass, engine, image, about(plan.prompt), Sampling(plan.max_tokens))
    plain, recorded = [], []
    for _ in range(rounds + 1):
        plain.append((await time_answer(say_the_same)).total)
        recorded.append((await time_describe(engine, image, plan)).total)
    without, with_it = (Spread.of_seconds(times[1:]).median for times in (plain, recorded))
    return (
        f"Describe pass of the scenes model: {without:.1f} ms, recorded {with_it:.1f} ms, {with_it / without:.3f}x"
        f" (medians of {rounds})."
    )


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure and print; return all figures."""
    rounds, sizes = (1, ()) if arguments.quick else (arguments.rounds, arguments.sizes)
    print(HEADER, flush=True)
    async with open_memory() as memory, redis_store(arguments.redis) as redis:
        stores = Stores(memory, redis)
        async with loaded(CHECKPOINT, torch.float32) as engine:
            times = await measure_methods(engine, stores, 4 * rounds, arguments.tokens)
            recording = await recording_cost(engine, 8 * rounds)
        figures = rows("scenes, 5.0 M, float32", 196, times)
        print("\n".join(table_lines(figures)), flush=True)
        for image_tokens in sizes:
            with tempfile.TemporaryDirectory() as folder:
                path = write_llava(Path(folder) / "llava", image_tokens)
                async with loaded(path, torch.bfloat16) as engine:
                    times = await measure_methods(engine, stores, rounds, arguments.tokens)
            more = rows("LLaVA shape, 0.9 B, bfloat16", image_tokens, times)
            print("\n".join(table_lines(more)), flush=True)
            figures += more
    print(f"\n{recording}")
    return {"rows": figures, "recording": recording}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command.parser("engine", __doc__, quick="one round of the small model")
    parser.add_argument("--redis", help="URL of a Redis; default: one is started")
    parser.add_argument("--rounds", type=int, default=5, help="answers a method; four times as many by the small model")
    parser.add_argument("--tokens", type=int, default=8, help="tokens of an answer [%(default)s]")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="image tokens, squares [%(default)s]")
    arguments = parser.parse_args(args)
    command.write_json(arguments.json, asyncio.run(measure(arguments)))


if __name__ == "__main__":
    command.run(main)
