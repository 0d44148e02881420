"""Measure a later question in vLLM, seven methods side by side: `make bench-vllm`.

- full pass: nothing cached, and a picture that the engine never saw with each question;
- full pass, prefix cache: the same picture every time, its keys and values in vLLM's prefix cache;
- compressed, memory and Redis: our answer pass from a context that nobody has asked about yet, read from either store,
  and handed to vLLM's processes;
- compressed, shared memory: the same from a context that was asked about before, and is still there for them;
- full KV, Redis: our answer pass with everything kept, which is what caching whole prefixes outside the GPU costs;
- full KV, vLLM's blocks: the same, asked about before, so that vLLM has all but its last block.

Each method starts where a server does: at the image's bytes, or at the context's id. So many ask at once, each its next
question when the last one is answered; every question is another one. The methods take turns, round by round, so that
what else the machine does falls on all alike. Times are medians ± half the distance of the quartiles. Answers are
checked before: exit status 1 if those from contexts differ from the full pass over the same turns, or between stores.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lookonce_cache import Store
from lookonce_evaluation.bench import command
from lookonce_evaluation.bench.checkpoints import write_llava
from lookonce_evaluation.bench.methods import (
    FULL,
    FromContext,
    FullPass,
    Method,
    PrefixCached,
    check_answers,
    describe_picture,
    open_memory,
    open_redis,
    png,
)
from lookonce_evaluation.bench.timing import AnswerTimes, Ask, DescribeTimes, Spread, time_answer, time_describe
from lookonce_evaluation.tables import record_table
from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.base import Sampling
from lookonce_server.engines.vllm import VllmEngine
from lookonce_server.engines.vllm.connector.step_times import StepTimes
from lookonce_server.settings import Settings

MEMORY, REDIS, SHARED = "compressed, memory", "compressed, Redis", "compressed, shared memory"
EVERYTHING, BLOCKS = "full KV, Redis", "full KV, vLLM's blocks"
QUESTIONS = ("What is at the center?", "How many objects are there?", "Find the red object.", "Is there a star?")
SAMPLING = Sampling(8)
DESCRIBE_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint to measure.

    Attributes:
        label: its name in the tables.
        dtype: the dtype of its arithmetic.
        write: writes the checkpoint to a folder, and returns its path.
        side: width and height of its pictures, in pixels; None for the drawn scenes' own.
        options: vLLM's options.
        full_passes: answers a round by the full pass, at least.
    """

    label: str
    dtype: torch.dtype
    write: Callable[[Path], Path]
    side: int | None
    options: dict[str, Any]
    full_passes: int


SCENES = Model(
    "scenes, 5.4 M, float32",
    torch.float32,
    lambda _: CHECKPOINT,
    side=None,
    options={"kv_cache_memory_bytes": 256 * 1024**2},
    full_passes=16,
)
LLAVA = Model(
    "LLaVA shape, 0.9 B, bfloat16",
    torch.bfloat16,
    lambda folder: write_llava(folder / "llava", 1024),
    side=448,  # 14 x 14 pixels a token
    options={"kv_cache_memory_bytes": 1024**3, "max_model_len": 4096},
    full_passes=2,
)


class Plan(NamedTuple):
    """The extent of a run."""

    models: tuple[Model, ...] = (SCENES, LLAVA)
    concurrencies: tuple[int, ...] = (1, 8, 32)
    rounds: int = 2
    answers: int = 8  # of a method other than the full pass, in a round, at least
    each: int = 2  # questions of each that ask at once, at least
    pictures: int = 3  # that are described for the describe pass's cost


QUICK = Plan((SCENES,), (1, 3), rounds=1, answers=2, each=1, pictures=1)


@dataclass
class Cell:
    """The times of one method at one concurrency, over all rounds."""

    answers: list[AnswerTimes] = field(default_factory=list)
    steps: list[StepTimes] = field(default_factory=list)
    seconds: float = 0.0  # in which all were answered

    def figures(self) -> dict[str, Any]:
        """Summarize the answers; times in milliseconds."""
        first_token = Spread.of_seconds(answer.first_token for answer in self.answers)
        return {
            "answers": len(self.answers),
            "first_token_ms": first_token,
            "first_token_p90_ms": first_token.p90,
            "answer_ms": Spread.of_seconds(answer.total for answer in self.answers),
            "requests_per_s": len(self.answers) / self.seconds,
            "tokens_per_s": sum(answer.tokens for answer in self.answers) / self.seconds,
            "computed_tokens": Spread.of(answer.computed_tokens for answer in self.answers).median,
        }

    def loads(self) -> dict[str, Any] | None:
        """Summarize the steps that loaded contexts, if there are any."""
        steps = [step for step in self.steps if step.loads]
        if not steps:
            return None
        load = Spread.of_seconds(step.load_seconds / step.loads for step in steps)
        step_loads = Spread.of_seconds(step.load_seconds for step in steps)
        return {
            "loads": sum(step.loads for step in steps),
            "load_ms": load,
            "load_p90_ms": load.p90,
            "step_loads_ms": step_loads,
            "step_loads_p90_ms": step_loads.p90,
            "share_of_steps": sum(step.load_seconds for step in steps) / sum(step.step_seconds for step in steps),
        }


Row = dict[str, Any]


class Rows(NamedTuple):
    """The rows of the three tables."""

    answers: list[Row]
    loads: list[Row]
    describes: list[Row]


async def measure_model(model: Model, redis: Store, plan: Plan, rows: Rows) -> None:
    """Measure one checkpoint by every method at every concurrency; add its rows."""
    async with _load_engine(model) as engine, open_memory() as memory:
        contexts = await describe_picture(engine, png(1, model.side), Settings(), DESCRIBE_TOKENS)
        from_contexts = [
            FromContext(MEMORY, engine, memory, contexts.compressed, contexts.plan),
            FromContext(REDIS, engine, redis, contexts.compressed, contexts.plan),
            FromContext(SHARED, engine, memory, contexts.compressed, contexts.plan, is_known=True),
            FromContext(EVERYTHING, engine, redis, contexts.everything, contexts.plan),
            FromContext(BLOCKS, engine, memory, contexts.everything, contexts.plan, is_known=True),
        ]
        await check_answers(engine, contexts, from_contexts, QUESTIONS, SAMPLING)
        methods: list[Method] = [FullPass(engine, model.side), PrefixCached(engine, contexts), *from_contexts]
        for method in methods:  # so that each is warm
            async with method.prepare(QUESTIONS[:1], SAMPLING) as (ask,):
                await time_answer(ask)
        await engine.take_step_times()  # those until now are of other passes
        pictures = [png(2 + number, model.side) for number in range(plan.pictures)]
        passes = [await time_describe(engine, picture, contexts.plan) for picture in pictures]
        labels = {"model": model.label, "image_tokens": contexts.everything.image_tokens}
        rows.describes.append(labels | describe_figures(passes, await engine.take_step_times()))
        for concurrency in plan.concurrencies:
            cells = await _measure_cells(model, engine, methods, plan, concurrency)
            full = cells[0].figures()
            for method, cell in zip(methods, cells, strict=True):
                own, loads = cell.figures(), cell.loads()
                labels |= {"concurrency": concurrency, "method": method.name}
                ratios = {
                    "sooner": full["first_token_ms"].median / own["first_token_ms"].median,
                    "more": own["requests_per_s"] / full["requests_per_s"],
                }
                rows.answers.append({**labels, **own, **ratios, "bytes": method.nbytes})
                if loads:
                    rows.loads.append(labels | loads)


@asynccontextmanager
async def _load_engine(model: Model) -> AsyncIterator[VllmEngine]:
    settings = Settings()
    with tempfile.TemporaryDirectory() as folder:
        engine = await VllmEngine.load(
            str(model.write(Path(folder))),
            dtype=model.dtype,
            describe_prompt=settings.describe_prompt,
            max_queue=settings.max_queue,
            options={"enforce_eager": True} | model.options,
            handover_bytes=settings.handover_bytes,
        )
        try:
            yield engine
        finally:
            await engine.close()


async def _measure_cells(
    model: Model, engine: VllmEngine, methods: Sequence[Method], plan: Plan, concurrency: int
) -> list[Cell]:
    cells = [Cell() for _ in methods]
    count = max(plan.answers, plan.each * concurrency)
    for number in range(plan.rounds):
        # The numbers come first: no question begins like another, so that nothing of one is in a cache.
        questions = [f"{concurrency}.{number}.{i}: {QUESTIONS[i % len(QUESTIONS)]}" for i in range(count)]
        for method, cell in zip(methods, cells, strict=True):
            answers = max(model.full_passes, concurrency) if method.name == FULL else count
            async with method.prepare(questions[:answers], SAMPLING) as asks:
                await engine.take_step_times()
                await run_closed_loop(asks, concurrency, cell)
                cell.steps += await engine.take_step_times()
    return cells


async def run_closed_loop(asks: Sequence[Ask], concurrency: int, cell: Cell) -> None:
    """Ask all questions, so many at once, each the next one when its last is answered."""
    waiting = iter(asks)

    async def ask_next() -> None:
        for ask in waiting:
            cell.answers.append(await time_answer(ask))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(ask_next())
    cell.seconds += time.perf_counter() - started


def describe_figures(passes: Sequence[DescribeTimes], steps: Sequence[StepTimes]) -> dict[str, Any]:
    """Summarize describe passes and the steps in which their captures ended."""
    steps = [step for step in steps if step.captures]
    capture_seconds = [step.compress_seconds + step.write_seconds for step in steps]
    return {
        "tokens": Spread.of(each.tokens for each in passes).median,
        "generate_ms": Spread.of_seconds(each.generate for each in passes),
        "capture_ms": Spread.of_seconds(each.capture for each in passes),
        "both_ms": Spread.of_seconds(each.total for each in passes),
        "of_generate": Spread.of(each.total / each.generate for each in passes).median,
        "compress_ms": Spread.of_seconds(step.compress_seconds for step in steps),
        "capture_holds_ms": Spread.of_seconds(capture_seconds),
        "capture_share_of_step": sum(capture_seconds) / sum(step.step_seconds for step in steps),
    }


async def measure(plan: Plan) -> Rows:
    """Measure every checkpoint."""
    rows = Rows([], [], [])
    async with open_redis() as redis:
        for model in plan.models:
            await measure_model(model, redis, plan, rows)
    return rows


def main(args: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = command.parser("vllm", __doc__, quick="the small model and few answers").parse_args(args)
    rows = asyncio.run(measure(QUICK if arguments.quick else Plan()))
    for title, table_rows in rows._asdict().items():
        print(f"{title}:\n\n{record_table(table_rows, '.2f')}\n")
    command.write_json(arguments.json, rows._asdict())


if __name__ == "__main__":
    command.run(main)
