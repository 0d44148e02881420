"""Measure a later question in the embedded engine, by four methods: `make bench`.

- full pass: the whole image again;
- full KV: everything kept, from memory (what a prefix cache does at best);
- compressed: the context at the chosen retention, from memory, and from a real redis-server.

And later questions that are asked at once, each asker one after the other: answers a second of an engine that decodes
them one by one, and of one that decodes them in a batch, as servers do.

Each method starts where a server does: at the image's bytes, or at the context's id. One run measures all of them in
turn, round by round, so that what else the machine does falls on all alike. Times are medians with half of the
quartiles' distance; ratios are what to compare.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

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
    open_redis,
    png,
)
from lookonce_evaluation.bench.timing import AnswerTimes, Spread, time_answer, time_describe
from lookonce_evaluation.tables import record_table
from lookonce_scenes import CHECKPOINT
from lookonce_server.app import describe_plan
from lookonce_server.engines.base import Engine, Sampling
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.settings import Settings

SIZES = (196, 576, 1024, 2304)  # image tokens
_QUESTION = "How many objects are there in the image?"
_SAMPLING = Sampling(8)
_DESCRIBE_TOKENS = 16
_SETTINGS = Settings()
_AT_ONCE = (1, 8)
_MIXED_QUESTIONS = (_QUESTION, "What is at the center?", "Find the red object.", "Describe the image.")
_MIXED_SAMPLING = Sampling(24)


@asynccontextmanager
async def load_engine(
    path: Path, dtype: torch.dtype, *, max_running: int = 1, max_queue: int = 8, **options: Any
) -> AsyncIterator[Engine]:
    """Load the embedded engine on the CPU."""
    prompt = _SETTINGS.describe_prompt
    engine = await TransformersEngine.load(
        str(path),
        dtype=dtype,
        device="cpu",
        describe_prompt=prompt,
        max_running=max_running,
        max_queue=max_queue,
        **options,
    )
    try:
        yield engine
    finally:
        await engine.close()


async def measure_methods(model: str, engine: Engine, memory: Store, redis: Store, rounds: int) -> list[dict[str, Any]]:
    """Time answers by every method."""
    contexts = await describe_picture(engine, png(1), _SETTINGS, _DESCRIBE_TOKENS)
    methods: list[Method] = [
        FullPass(engine),
        FromContext("full KV, memory", engine, memory, contexts.everything, contexts.plan),
        FromContext("compressed, memory", engine, memory, contexts.compressed, contexts.plan),
        FromContext("compressed, Redis", engine, redis, contexts.compressed, contexts.plan),
    ]
    times: list[list[AnswerTimes]] = [[] for _ in methods]
    for number in range(rounds + 1):
        for method, answers in zip(methods, times, strict=True):
            async with method.prepare([_QUESTION], _SAMPLING) as (ask,):
                answer = await time_answer(ask)
            if number:  # the first round warms up
                answers.append(answer)
    first_token = [Spread.of_seconds(answer.first_token for answer in answers) for answers in times]
    whole = [Spread.of_seconds(answer.total for answer in answers) for answers in times]
    return [
        {
            "model": model,
            "image_tokens": contexts.everything.image_tokens,
            "method": method.name,
            "first_token_ms": first_token[i],
            "first_token_faster": first_token[0].median / first_token[i].median,
            "answer_ms": whole[i],
            "answer_faster": whole[0].median / whole[i].median,
            "bytes": method.nbytes,
        }
        for i, method in enumerate(methods)
    ]


async def measure_throughput(memory: Store, rounds: int) -> list[dict[str, Any]]:
    """Measure answers a second of later questions that are asked at once."""
    most = max(_AT_ONCE)
    async with (
        load_engine(CHECKPOINT, torch.float32, max_running=most, batched=False) as alone,
        load_engine(CHECKPOINT, torch.float32, max_running=most) as together,
    ):
        contexts = await describe_picture(together, png(1), _SETTINGS, _DESCRIBE_TOKENS)
        context = contexts.compressed
        methods = [
            FromContext(name, engine, memory, context, contexts.plan)
            for name, engine in (("one by one", alone), ("batch", together))
        ]
        rates: dict[tuple[int, str], list[float]] = {(n, method.name): [] for n in _AT_ONCE for method in methods}
        for number in range(rounds + 1):
            for at_once in _AT_ONCE:
                for method in methods:
                    rate = await _answers_a_second(method, at_once)
                    if number:  # the first round warms up
                        rates[at_once, method.name].append(rate)
    return [
        {
            "at_once": at_once,
            "method": name,
            "answers_a_second": Spread.of(own),
            "over_one_by_one": Spread.of(a / b for a, b in zip(own, rates[at_once, "one by one"], strict=True)),
        }
        for (at_once, name), own in rates.items()
    ]


async def _answers_a_second(method: Method, at_once: int) -> float:
    """Ask every question as often as there are askers, all of them at once."""
    questions = [question for _ in range(at_once) for question in _MIXED_QUESTIONS]
    async with method.prepare(questions, _MIXED_SAMPLING) as asks:
        left = iter(asks)

        async def ask_on() -> None:
            for ask in left:
                await time_answer(ask)

        started = time.perf_counter()
        await asyncio.gather(*(ask_on() for _ in range(at_once)))
        return len(asks) / (time.perf_counter() - started)


async def recording_cost(engine: Engine, rounds: int) -> str:
    """Measure a describe pass beside a full pass that generates the same text."""
    plan = replace(describe_plan(_SETTINGS, engine), max_tokens=128)
    image = png(1)
    generate_text = partial(full_pass, engine, [image], about(plan.prompt), Sampling(plan.max_tokens))
    plain, recorded = [], []
    for _ in range(rounds + 1):
        plain.append((await time_answer(generate_text)).total)
        recorded.append((await time_describe(engine, image, plan)).total)
    without, with_it = (Spread.of_seconds(times[1:]).median for times in (plain, recorded))
    return (
        f"Describe pass of the scenes model: {without:.1f} ms, recorded {with_it:.1f} ms, {with_it / without:.3f}x"
        f" (medians of {rounds})."
    )


async def measure(rounds: int, sizes: Sequence[int]) -> dict[str, Any]:
    """Measure and print; return all figures."""
    figures: list[dict[str, Any]] = []

    def add(rows: list[dict[str, Any]]) -> None:
        figures.extend(rows)
        print(record_table(rows) + "\n", flush=True)

    async with open_memory() as memory, open_redis() as redis:
        async with load_engine(CHECKPOINT, torch.float32) as engine:
            add(await measure_methods("scenes, 5.0 M, float32", engine, memory, redis, 4 * rounds))
            recording = await recording_cost(engine, 8 * rounds)
        add(await measure_throughput(memory, 4 * rounds))
        for image_tokens in sizes:
            with tempfile.TemporaryDirectory() as folder:
                path = write_llava(Path(folder) / "llava", image_tokens)
                async with load_engine(path, torch.bfloat16) as engine:
                    add(await measure_methods("LLaVA shape, 0.9 B, bfloat16", engine, memory, redis, rounds))
    print(recording)
    return {"rows": figures, "recording": recording}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command.parser("engine", __doc__, quick="one round of the small model")
    parser.add_argument("--rounds", type=int, default=5, help="answers a method; four times as many by the small model")
    arguments = parser.parse_args(args)
    rounds, sizes = (1, ()) if arguments.quick else (arguments.rounds, SIZES)
    command.write_json(arguments.json, asyncio.run(measure(rounds, sizes)))


if __name__ == "__main__":
    command.run(main)
