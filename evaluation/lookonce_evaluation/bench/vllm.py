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
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lookonce_cache import CompressedContext, Store, open_store
from lookonce_evaluation.bench import command, vllm_report
from lookonce_evaluation.bench.checkpoints import QWEN2_VL_SMALL, write_llava, write_qwen2_vl
from lookonce_evaluation.bench.methods import (
    FULL,
    FromContext,
    FullPass,
    Method,
    PrefixCached,
    about,
    create_context,
    describe_plan,
    full_pass,
    png,
    redis_store,
)
from lookonce_evaluation.bench.timing import Ask, time_answer, time_describe
from lookonce_evaluation.bench.vllm_report import EVERYTHING, MEMORY, REDIS, Cell, Comparison, ModelFigures
from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.base import DescribePlan, Piece, Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.vllm import VllmEngine
from lookonce_server.settings import Settings

QUESTIONS = ("What is at the center?", "How many objects are there?", "Find the red object.", "Is there a star?")
_SMALL_CACHE = {"kv_cache_memory_bytes": 256 * 1024**2}
_LARGE_CACHE = {"kv_cache_memory_bytes": 1024**3, "max_model_len": 4096}


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
        full_up_to: highest concurrency at which full passes are measured.
    """

    label: str
    dtype: torch.dtype
    write: Callable[[Path], Path]
    side: int | None
    options: dict[str, Any]
    full_passes: int
    full_once_from: int = 1_000
    full_up_to: int = 1_000

    def full_answers(self, concurrency: int, number: int) -> int:
        """Return how many full passes a round measures, of which there were `number` before."""
        skipped = concurrency > self.full_up_to or (concurrency >= self.full_once_from and number)
        return 0 if skipped else max(self.full_passes, concurrency)


MODELS = {
    "scenes": Model("scenes, 5.0 M, float32", torch.float32, lambda _: CHECKPOINT, None, _SMALL_CACHE, 16),
    "llava": Model(
        "LLaVA shape, 0.9 B, bfloat16",
        torch.bfloat16,
        lambda folder: write_llava(folder / "llava", 1024),
        448,  # 14 x 14 pixels a token
        _LARGE_CACHE,
        full_passes=2,
        full_once_from=32,
    ),
    # Its vision tower sees four patches a token, and takes most of a full pass: half a minute of two cores.
    "qwen2-vl": Model(
        "Qwen2-VL shape, 0.8 B, bfloat16",
        torch.bfloat16,
        lambda folder: write_qwen2_vl(folder / "qwen2-vl", QWEN2_VL_SMALL),
        896,  # 28 x 28 pixels a token
        _LARGE_CACHE,
        full_passes=1,
        full_up_to=1,
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


@dataclass
class _Bench:
    """An engine, one picture's contexts, and the methods to ask about it."""

    engine: VllmEngine
    image: bytes
    side: int | None
    plan: DescribePlan
    everything: CompressedContext
    methods: dict[str, Method]


async def measure_model(model: Model, redis: Store, settings: Settings, effort: Effort) -> ModelFigures:
    """Measure one checkpoint by every method at every concurrency, in rounds."""
    async with _started(model, settings) as engine:
        bench = await _prepared(engine, redis, settings, effort.describe_tokens, model.side)
        comparisons = await _compare(bench, effort.tokens)
        await engine.take_step_times()  # those until now are of other passes
        figures = ModelFigures(
            label=model.label,
            image_tokens=bench.everything.image_tokens,
            nbytes={name: method.nbytes for name, method in bench.methods.items()},
            comparisons=comparisons,
            describes=[
                await time_describe(engine, png(2 + number, model.side), bench.plan)
                for number in range(effort.pictures)
            ],
            describe_steps=await engine.take_step_times(),
        )
        await _measure_cells(model, bench, effort, figures)
        return figures


@asynccontextmanager
async def _started(model: Model, settings: Settings) -> AsyncIterator[VllmEngine]:
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # else vLLM compiles its sampler at the first log-probability
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


async def _prepared(
    engine: VllmEngine, redis: Store, settings: Settings, describe_tokens: int, side: int | None
) -> _Bench:
    """Describe a picture, compressed and with everything kept."""
    image, memory = png(1, side), open_store("memory://?max_bytes=4GiB")
    plan, keep_all = (
        describe_plan(settings, engine, retention=retention, max_tokens=describe_tokens)
        for retention in (settings.retention, 1.0)
    )
    compressed = await create_context(engine, image, plan, settings.precision)
    everything = await create_context(engine, image, keep_all, "native")
    full_bytes = everything.full_tokens * (everything.nbytes // everything.stored_tokens)
    methods: list[Method] = [
        FullPass(engine, side),
        PrefixCached(engine, image, full_bytes),
        FromContext(MEMORY, engine, memory, compressed, plan),
        FromContext(REDIS, engine, redis, compressed, plan),
        FromContext(EVERYTHING, engine, redis, everything, keep_all),
    ]
    return _Bench(engine, image, side, plan, everything, {method.name: method for method in methods})


async def _compare(bench: _Bench, tokens: int) -> dict[str, Comparison]:
    """Check that methods that should give the same answers do; this warms all of them up, too."""
    sampling = Sampling(tokens, logprobs=0)
    unseen = [
        partial(full_pass, bench.engine, png(500 + number, bench.side), about(question), sampling)
        for number, question in enumerate(QUESTIONS[:2])
    ]
    uncached, cached = [[await _output(ask) for ask in unseen] for _ in range(2)]
    outputs = {}
    for name in (MEMORY, REDIS, EVERYTHING):
        async with bench.methods[name].prepare(QUESTIONS, sampling) as asks:
            outputs[name] = [await _output(ask) for ask in asks]
    turns = [_after_describing(bench.plan.prompt, question) for question in QUESTIONS]
    full = [await _output(partial(full_pass, bench.engine, bench.image, turn, sampling)) for turn in turns]
    return {
        "compressed: memory, Redis": _comparison(outputs[MEMORY], outputs[REDIS]),
        "full KV, Redis: full pass over the same turns": _comparison(outputs[EVERYTHING], full),
        "full pass: with prefix cache, without": _comparison(cached, uncached),
    }


def _after_describing(prompt: str, question: str) -> Conversation:
    """What a context at retention 1.0 stands for: the describe turn, closed, and a question."""
    return Conversation((Turn("user", prompt, has_image=True), Turn("assistant", ""), Turn("user", question)))


async def _output(ask: Ask) -> list[tuple[int, float]]:
    """Ask, and return the answer's tokens and their log-probabilities: random weights may say what has no text."""
    pieces = [event async for event in await ask() if isinstance(event, Piece)]
    return [(piece.logprob.token, piece.logprob.logprob) for piece in pieces if piece.logprob is not None]


def _comparison(first: Sequence[list[tuple[int, float]]], second: Sequence[list[tuple[int, float]]]) -> Comparison:
    pairs = list(zip(first, second, strict=True))
    alike = [(a, b) for a, b in pairs if a and [token for token, _ in a] == [token for token, _ in b]]
    differences = [abs(x - y) for a, b in alike for (_, x), (_, y) in zip(a, b, strict=True)]
    different = {tuple((token, round(logprob, 3)) for token, logprob in output) for output in first}
    return Comparison(len(alike), len(pairs), len(different), max(differences, default=0.0))


async def _measure_cells(model: Model, bench: _Bench, effort: Effort, figures: ModelFigures) -> None:
    numbers = itertools.count(10_000)
    for concurrency, number in itertools.product(effort.concurrencies, range(effort.rounds)):
        # The number comes first: no question begins like another, so that nothing of one is found in a cache.
        count = max(effort.answers, effort.each * concurrency)
        questions = [f"{next(numbers)}: {QUESTIONS[i % len(QUESTIONS)]}" for i in range(count)]
        for name, method in bench.methods.items():
            answers = model.full_answers(concurrency, number) if name == FULL else count
            if answers:
                cell = figures.cells.setdefault(name, {}).setdefault(concurrency, Cell())
                async with method.prepare(questions[:answers], Sampling(effort.tokens)) as asks:
                    await bench.engine.take_step_times()
                    await closed_loop(asks, concurrency, cell)
                    cell.steps += await bench.engine.take_step_times()


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


def main(given: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command.parser("vllm", __doc__, quick="the small model and few answers")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="which checkpoints [scenes llava]")
    parser.add_argument("--concurrency", type=_numbers, default=(1, 8, 32), help="how many ask at once [1,8,32]")
    parser.add_argument("--tokens", type=int, default=8, help="most tokens of an answer [%(default)s]")
    parser.add_argument("--describe-tokens", type=int, default=48, help="most tokens of a description [%(default)s]")
    parser.add_argument("--redis", help="URL of a Redis; default: one is started")
    arguments = parser.parse_args(given)
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
