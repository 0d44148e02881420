"""What a later question costs in vLLM, five methods side by side: `make bench-vllm`.

- full pass: nothing cached, and a picture that the engine never saw with each question;
- full pass, prefix cache: the same picture every time, its keys and values in vLLM's prefix cache;
- compressed, memory and Redis: our answer pass from the context, read from either store each time;
- full KV, Redis: our answer pass with everything kept, which is what caching whole prefixes outside the GPU costs.

Each method starts where a server does: at the image's bytes, or at the context's id. So many ask at once, each its next
question when the last one is answered; every question is another one. The methods take turns, round by round, so that
what else the machine does falls on all alike. Times are medians ± half the distance of the quartiles.
"""

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lookonce_cache import Store
from lookonce_evaluation.bench import command, vllm_report
from lookonce_evaluation.bench.checkpoints import write_llava
from lookonce_evaluation.bench.methods import (
    FULL,
    FromContext,
    FullPass,
    Method,
    PrefixCached,
    describe_picture,
    open_memory,
    png,
    redis_store,
)
from lookonce_evaluation.bench.timing import Ask, time_answer, time_describe
from lookonce_evaluation.bench.vllm_report import EVERYTHING, MEMORY, REDIS, Cell, ModelFigures
from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.base import Sampling
from lookonce_server.engines.vllm import VllmEngine
from lookonce_server.settings import Settings

QUESTIONS = ("What is at the center?", "How many objects are there?", "Find the red object.", "Is there a star?")


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint and how it is asked.

    Attributes:
        label: in the tables.
        dtype: arithmetic.
        write: makes the checkpoint in a folder, and returns where.
        side: of its pictures, in pixels; None for the drawn scenes' own.
        options: of vLLM.
        full_passes: answers a round by the full pass, at least.
        full_once_from: concurrency from which on one round of full passes must do: it takes minutes.
    """

    label: str
    dtype: torch.dtype
    write: Callable[[Path], Path]
    side: int | None
    options: dict[str, Any]
    full_passes: int
    full_once_from: int = 1_000

    def full_answers(self, concurrency: int, number: int) -> int:
        """Return how many full passes a round measures, of which there were `number` before."""
        return 0 if concurrency >= self.full_once_from and number else max(self.full_passes, concurrency)


MODELS = {
    "scenes": Model(
        "scenes, 5.0 M, float32",
        torch.float32,
        lambda _: CHECKPOINT,
        side=None,
        options={"kv_cache_memory_bytes": 256 * 1024**2},
        full_passes=16,
    ),
    "llava": Model(
        "LLaVA shape, 0.9 B, bfloat16",
        torch.bfloat16,
        lambda folder: write_llava(folder / "llava", 1024),
        side=448,  # 14 x 14 pixels a token
        options={"kv_cache_memory_bytes": 1024**3, "max_model_len": 4096},
        full_passes=2,
        full_once_from=32,
    ),
}


class Effort(NamedTuple):
    """How much is measured."""

    concurrencies: tuple[int, ...]
    tokens: int  # of an answer
    describe_tokens: int
    rounds: int = 2
    answers: int = 8  # of a method other than the full pass, in a round, at least
    each: int = 2  # questions of each that ask at once, at least
    pictures: int = 3  # that are described for the describe pass's cost


async def measure_model(model: Model, redis: Store, settings: Settings, effort: Effort) -> ModelFigures:
    """Measure one checkpoint by every method at every concurrency, in rounds."""
    async with _started(model, settings) as engine, open_memory() as memory:
        contexts = await describe_picture(engine, png(1, model.side), settings, effort.describe_tokens)
        methods: list[Method] = [
            FullPass(engine, model.side),
            PrefixCached(engine, contexts.image, contexts.full_bytes),
            FromContext(MEMORY, engine, memory, contexts.compressed, contexts.plan),
            FromContext(REDIS, engine, redis, contexts.compressed, contexts.plan),
            FromContext(EVERYTHING, engine, redis, contexts.everything, contexts.plan),
        ]
        for method in methods:  # so that each is warm
            async with method.prepare(QUESTIONS[:1], Sampling(effort.tokens)) as (ask,):
                await time_answer(ask)
        await engine.take_step_times()  # those until now are of other passes
        pictures = [png(2 + number, model.side) for number in range(effort.pictures)]
        figures = ModelFigures(
            label=model.label,
            image_tokens=contexts.everything.image_tokens,
            nbytes={method.name: method.nbytes for method in methods},
            describes=[await time_describe(engine, picture, contexts.plan) for picture in pictures],
            describe_steps=await engine.take_step_times(),
        )
        await _measure_cells(model, engine, methods, effort, figures)
        return figures


@asynccontextmanager
async def _started(model: Model, settings: Settings) -> AsyncIterator[VllmEngine]:
    with tempfile.TemporaryDirectory() as folder:
        engine = await VllmEngine.load(
            str(model.write(Path(folder))),
            dtype=model.dtype,
            describe_prompt=settings.describe_prompt,
            max_queue=settings.max_queue,
            options={"enforce_eager": True} | model.options,
        )
        try:
            yield engine
        finally:
            await engine.close()


async def _measure_cells(
    model: Model, engine: VllmEngine, methods: Sequence[Method], effort: Effort, figures: ModelFigures
) -> None:
    numbers = itertools.count(10_000)
    for concurrency, number in itertools.product(effort.concurrencies, range(effort.rounds)):
        # The number comes first: no question begins like another, so that nothing of one is found in a cache.
        count = max(effort.answers, effort.each * concurrency)
        questions = [f"{next(numbers)}: {QUESTIONS[i % len(QUESTIONS)]}" for i in range(count)]
        for method in methods:
            answers = model.full_answers(concurrency, number) if method.name == FULL else count
            if answers:
                cell = figures.cells.setdefault(method.name, {}).setdefault(concurrency, Cell())
                async with method.prepare(questions[:answers], Sampling(effort.tokens)) as asks:
                    await engine.take_step_times()
                    await closed_loop(asks, concurrency, cell)
                    cell.steps += await engine.take_step_times()


async def closed_loop(asks: Sequence[Ask], concurrency: int, cell: Cell) -> None:
    """Ask all questions, so many at once, each the next one when its last is answered."""
    waiting = iter(asks)

    async def ask_on() -> None:
        for ask in waiting:
            cell.answers.append(await time_answer(ask))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(ask_on())
    cell.seconds += time.perf_counter() - started


async def measure(names: Sequence[str], redis_url: str | None, effort: Effort) -> list[ModelFigures]:
    """Measure these checkpoints."""
    async with redis_store(redis_url) as redis:
        return [await measure_model(MODELS[name], redis, Settings(), effort) for name in names]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command.parser("vllm", __doc__, quick="the small model and few answers")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="which checkpoints [scenes llava]")
    parser.add_argument("--concurrency", type=_numbers, default=(1, 8, 32), help="how many ask at once [1,8,32]")
    parser.add_argument("--tokens", type=int, default=8, help="most tokens of an answer [%(default)s]")
    parser.add_argument("--describe-tokens", type=int, default=48, help="most tokens of a description [%(default)s]")
    parser.add_argument("--redis", help="URL of a Redis; default: one is started")
    arguments = parser.parse_args(args)
    names = arguments.models or (("scenes",) if arguments.quick else ("scenes", "llava"))
    effort = Effort(arguments.concurrency, arguments.tokens, arguments.describe_tokens)
    if arguments.quick:
        effort = effort._replace(rounds=1, answers=2, each=1, pictures=1)
    figures = asyncio.run(measure(names, arguments.redis, effort))
    print(vllm_report.text(figures))
    command.write_json(arguments.json, {"models": vllm_report.as_json(figures)})


def _numbers(text: str) -> tuple[int, ...]:
    """As in "1,8,32"."""
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers above 0")
    return numbers


if __name__ == "__main__":
    command.run(main)
