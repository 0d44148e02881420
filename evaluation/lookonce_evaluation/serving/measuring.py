"""One checkpoint, measured in every way at every concurrency, in rounds."""

import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lookonce_cache import Store
from lookonce_evaluation.benching import png
from lookonce_evaluation.serving.checking import QUESTIONS, Compared, check
from lookonce_evaluation.serving.clock import ClockedEngine, clocked
from lookonce_evaluation.serving.describing import DescribeCost, describe_cost
from lookonce_evaluation.serving.loop import Cell, closed_loop
from lookonce_evaluation.serving.models import Model
from lookonce_evaluation.serving.ways import FULL, Way, Ways, make_ways
from lookonce_server.engines.base import Sampling
from lookonce_server.settings import Settings

_NOTHING_CACHED = {"enable_prefix_caching": False, "mm_processor_cache_gb": 0}


class Effort(NamedTuple):
    """How much is measured."""

    concurrencies: tuple[int, ...]
    rounds: int
    answers: int  # of a cheap way and round, at least
    each: int  # times that each who asks does, at least
    tokens: int  # of an answer
    said: int  # tokens of a description
    pictures: int  # that are described for the describe pass's cost


@dataclass
class Measured:
    """What was found of one checkpoint."""

    label: str
    image_tokens: int
    block_size: int
    nbytes: dict[str, int]  # by way: kept for one image
    checks: dict[str, Compared]
    describe: DescribeCost
    cells: dict[str, dict[int, Cell]] = field(default_factory=dict)  # by way and concurrency


async def measure_model(model: Model, redis: Store, settings: Settings, effort: Effort) -> Measured:
    """Measure one checkpoint."""
    async with _engines(model, settings) as (nothing_cached, engine):
        ways = await make_ways(nothing_cached, engine, redis, settings, said=effort.said, side=model.side)
        measured = Measured(
            label=model.label,
            image_tokens=ways.everything.image_tokens,
            block_size=engine._requests._llm.vllm_config.cache_config.block_size,
            nbytes={name: way.nbytes for name, way in ways.all.items()},
            checks=await check(ways, effort.tokens),
            describe=await describe_cost(engine, [png(2 + i, model.side) for i in range(effort.pictures)], ways.plan),
        )
        await _measure_cells(model, ways, effort, measured)
        return measured


@asynccontextmanager
async def _engines(model: Model, settings: Settings) -> AsyncIterator[tuple[ClockedEngine, ClockedEngine]]:
    """One that caches nothing, and one as it is served. Both run all the time; the one that is not asked sleeps."""
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # else vLLM compiles its sampler at the first log-probability
    async with AsyncExitStack() as stack:
        path = model.write(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        started = []
        for options in (_NOTHING_CACHED, {}):
            with clocked():
                engine = await ClockedEngine.load(
                    str(path),
                    dtype=model.dtype,
                    describe_prompt=settings.describe_prompt,
                    max_queue=settings.max_queue,
                    options={"enforce_eager": True} | model.options | options,
                )
            stack.push_async_callback(engine.close)
            started.append(engine)
        yield started[0], started[1]


async def _measure_cells(model: Model, ways: Ways, effort: Effort, measured: Measured) -> None:
    numbers = itertools.count(10_000)
    for concurrency in effort.concurrencies:
        for number in range(effort.rounds):
            # The number comes first: no question begins like another, so that nothing of one is found in a cache.
            most = max(effort.answers, effort.each * concurrency)
            asked = [f"{next(numbers)}: {QUESTIONS[i % len(QUESTIONS)]}" for i in range(most)]
            for name, way in ways.all.items():
                answers = model.full_answers(concurrency, number) if name == FULL else most
                if answers:
                    cell = measured.cells.setdefault(name, {}).setdefault(concurrency, Cell())
                    await _measure_round(way, asked[:answers], concurrency, Sampling(effort.tokens), cell)


async def _measure_round(way: Way, questions: Sequence[str], concurrency: int, sampling: Sampling, cell: Cell) -> None:
    asks = await way.prepare(questions, sampling)
    await way.engine.noted()  # what was noted until now is not of this round
    await closed_loop(asks, concurrency, cell)
    cell.steps += await way.engine.noted()
    await way.tidy()
