"""Measure a question over several images, in both engines: `make bench-images`.

- full pass: all images whole, none of them seen before;
- prefix cache, same order: the same images in the same order as before, their keys and values in vLLM's prefix cache;
- prefix cache, another order: the same images as before, in another order (vLLM keeps what its vision tower made);
- joined: our answer pass from the images' contexts, each read from memory, in an order never asked before.

Each method starts where a server does: at the images' bytes, or at the contexts' ids. The methods of an engine take
turns, round by round, so that what else the machine does falls on all alike. Times are medians ± half the distance of
the quartiles; ratios are what to compare. What does not fit the model's positions has none.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lookonce_cache import Store
from lookonce_evaluation.bench import command
from lookonce_evaluation.bench.checkpoints import write_llava
from lookonce_evaluation.bench.engine import load_engine
from lookonce_evaluation.bench.methods import (
    FromContext,
    FullPass,
    Method,
    PictureContexts,
    about,
    describe_picture,
    full_pass,
    open_memory,
    png,
)
from lookonce_evaluation.bench.timing import AnswerTimes, Ask, Spread, time_answer
from lookonce_evaluation.options import positive
from lookonce_evaluation.tables import record_table
from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.base import Engine, Sampling
from lookonce_server.errors import PromptTooLongError
from lookonce_server.settings import Settings

FULL, SAME, OTHER, JOINED = "full pass", "prefix cache, same order", "prefix cache, another order", "joined"
COUNTS = (1, 2, 4, 8, 16)
SAMPLING = Sampling(8)
DESCRIBE_TOKENS = 16
_QUESTION = "How many objects are there in all images?"


class Model(NamedTuple):
    """A checkpoint to measure."""

    label: str  # its name in the tables
    dtype: torch.dtype
    write: Callable[[Path], Path]  # writes it to a folder, and returns its path
    side: int | None  # of its pictures, in pixels; None for the drawn scenes' own
    options: dict[str, Any]  # of vLLM


SCENES = Model("scenes, float32", torch.float32, lambda _: CHECKPOINT, None, {"kv_cache_memory_bytes": 256 * 1024**2})
LLAVA = Model(
    "LLaVA shape, 0.9 B, bfloat16",
    torch.bfloat16,
    lambda folder: write_llava(folder / "llava", 256),
    side=224,  # 14 x 14 pixels a token
    options={"kv_cache_memory_bytes": 1024**3, "max_model_len": 8192},
)


class Plan(NamedTuple):
    """The extent of a run."""

    models: tuple[Model, ...] = (SCENES, LLAVA)
    counts: tuple[int, ...] = COUNTS
    rounds: int = 5


QUICK = Plan((SCENES,), (1, 3), rounds=1)


class PrefixCached(FullPass):
    """Answer by the full pass about pictures seen before, from vLLM's prefix cache.

    Args:
        name: of the method.
        engine: answers the questions.
        side: width and height of the pictures; None for the scenes' own.
        images: pictures that a question is about.
        contexts: of one picture, which tell the bytes of a whole one.
        is_same_order: whether they come as before, and not the other way round.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        side: int | None,
        images: int,
        contexts: PictureContexts,
        *,
        is_same_order: bool,
    ) -> None:
        super().__init__(engine, side, images)
        self.name = name
        self.nbytes = images * contexts.full_bytes
        self._is_same_order = is_same_order

    @asynccontextmanager
    async def prepare(self, questions: Sequence[str], sampling: Sampling) -> AsyncIterator[list[Ask]]:
        """See `Method.prepare`."""
        asks: list[Ask] = []
        for question in questions:
            # Asked once, another order is a known one too: each question has pictures of its own.
            pictures = await asyncio.to_thread(self._pictures)
            conversation = about(question, len(pictures))
            warm_up = about("Is it warm?", len(pictures))
            await time_answer(partial(full_pass, self._engine, pictures, warm_up, sampling))
            ordered = pictures if self._is_same_order else pictures[::-1]
            asks.append(partial(full_pass, self._engine, ordered, conversation, sampling))
        yield asks


def methods_of(
    engine: Engine, store: Store, contexts: PictureContexts, side: int | None, images: int, *, has_prefix_cache: bool
) -> list[Method]:
    """List the methods to answer a question about so many images."""
    cached: list[Method] = []
    if has_prefix_cache:
        cached.append(PrefixCached(SAME, engine, side, images, contexts, is_same_order=True))
    if has_prefix_cache and images > 1:
        cached.append(PrefixCached(OTHER, engine, side, images, contexts, is_same_order=False))
    joined = FromContext(JOINED, engine, store, contexts.compressed, contexts.plan, images=images)
    return [FullPass(engine, side, images), *cached, joined]


async def measure_methods(methods: Sequence[Method], rounds: int) -> list[list[AnswerTimes]]:
    """Time answers by every method; none where the prompt does not fit the model."""
    times: list[list[AnswerTimes]] = [[] for _ in methods]
    for number in range(rounds + 1):
        for method, answers in zip(methods, times, strict=True):
            if number and not answers:
                continue
            try:
                async with method.prepare([f"{number}: {_QUESTION}"], SAMPLING) as (ask,):
                    answers.append(await time_answer(ask))
            except PromptTooLongError:
                continue
    return [answers[1:] for answers in times]  # the first round warms up


def rows_of(methods: Sequence[Method], times: Sequence[Sequence[AnswerTimes]]) -> list[dict[str, Any]]:
    """Summarize the answers by method; times in milliseconds."""
    first = [Spread.of_seconds(answer.first_token for answer in answers) if answers else None for answers in times]
    return [
        {
            "method": method.name,
            "computed_tokens": int(Spread.of(each.computed_tokens for each in answers).median) if answers else None,
            "first_token_ms": spread,
            "sooner": first[0].median / spread.median if spread and first[0] else None,
            "answer_ms": Spread.of_seconds(each.total for each in answers) if answers else None,
            "KiB": method.nbytes // 1024 if answers else None,
        }
        for method, answers, spread in zip(methods, times, first, strict=True)
    ]


async def measure_engine(
    name: str, opened: AbstractAsyncContextManager[Engine], model: Model, plan: Plan
) -> list[dict[str, Any]]:
    """Measure one engine with one checkpoint, by the number of images."""
    rows: list[dict[str, Any]] = []
    async with opened as engine, open_memory() as store:
        contexts = await describe_picture(engine, png(1, model.side), Settings(), DESCRIBE_TOKENS)
        for images in plan.counts:
            methods = methods_of(engine, store, contexts, model.side, images, has_prefix_cache=name == "vllm")
            labels = {"model": model.label, "engine": name, "images": images}
            measured = rows_of(methods, await measure_methods(methods, plan.rounds))
            rows += [labels | row for row in measured]
            print(record_table(rows[-len(methods) :]) + "\n", flush=True)
    return rows


@asynccontextmanager
async def load_vllm(path: Path, model: Model, *, max_images: int) -> AsyncIterator[Engine]:
    """Load vLLM in this process."""
    from lookonce_server.engines.vllm import VllmEngine

    settings = Settings()
    engine = await VllmEngine.load(
        str(path),
        dtype=model.dtype,
        describe_prompt=settings.describe_prompt,
        max_queue=settings.max_queue,
        options={"enforce_eager": True} | model.options,
        max_images=max_images,
        handover_bytes=settings.handover_bytes,
    )
    try:
        yield engine
    finally:
        await engine.close()


async def measure(plan: Plan, engines: Sequence[str]) -> dict[str, Any]:
    """Measure and print; return all figures."""
    rows: list[dict[str, Any]] = []
    for model in plan.models:
        with tempfile.TemporaryDirectory() as folder:
            path = await asyncio.to_thread(model.write, Path(folder))
            for name in engines:
                opened = (
                    load_engine(path, model.dtype)
                    if name == "transformers"
                    else load_vllm(path, model, max_images=max(plan.counts))
                )
                rows += await measure_engine(name, opened, model, plan)
    print(record_table(rows))
    return {"rows": rows}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command.parser("images", __doc__, quick="the small model, few images, one round")
    parser.add_argument("--rounds", type=positive, default=Plan().rounds, help="answers a method [%(default)s]")
    parser.add_argument("--counts", nargs="+", type=positive, default=COUNTS, metavar="N", help="images a question")
    names = ("transformers", "vllm")
    parser.add_argument("--engines", nargs="+", choices=names, default=names, help="which are measured [both]")
    arguments = parser.parse_args(args)
    plan = QUICK if arguments.quick else Plan(counts=tuple(arguments.counts), rounds=arguments.rounds)
    command.write_json(arguments.json, asyncio.run(measure(plan, arguments.engines)))


if __name__ == "__main__":
    command.run(main)
