"""Measure the first answer about a new image, beside a plain full pass: `make bench-first`.

- plain: a full pass that leaves no context, as a server without contexts answers;
- first: the answer about an image that nobody has asked about, with the describe pass that is begun behind it.

So many ask at once, each about a picture of its own; then all wait until every picture is described, so that a pass
begins with nothing else at work. Both ways take turns, the first one in turns too. Each round gives a ratio of the
medians; the ratio that is told is the median of the rounds', ± half the distance of their quartiles.
"""

import asyncio
import itertools
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lookonce_cache import DEFAULT_TENANT
from lookonce_evaluation.bench import command
from lookonce_evaluation.bench.engine import load_engine
from lookonce_evaluation.bench.images import LLAVA, SCENES, Model, load_vllm
from lookonce_evaluation.bench.methods import about, contexts_of, open_memory, png
from lookonce_evaluation.bench.timing import AnswerTimes, Spread, time_answer
from lookonce_evaluation.options import positive
from lookonce_evaluation.tables import record_table
from lookonce_server.app import describe_plan
from lookonce_server.engines.base import Answer, Engine, Sampling
from lookonce_server.images.decode import ImageLimits
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ImageBytes
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.context_options import ContextOptions
from lookonce_server.sessions.contexts import Contexts
from lookonce_server.sessions.sessions import Sessions
from lookonce_server.settings import Settings

PLAIN, FIRST = "plain", "first"
OPTIONS = {PLAIN: ContextOptions(bypass=True), FIRST: ContextOptions(on_miss="full")}
CONCURRENCIES = (1, 8)
SAMPLING = Sampling(16)
DESCRIBE_TOKENS = 48  # at most: random weights say as many
_QUESTION = "What is at the center?"


class Plan(NamedTuple):
    """The extent of a run."""

    models: tuple[Model, ...] = (SCENES, LLAVA)
    concurrencies: tuple[int, ...] = CONCURRENCIES
    rounds: int = 8


QUICK = Plan((SCENES,), (2,), rounds=1)


class Asker:
    """Ask about new pictures.

    Args:
        engine: answers.
        contexts: of the pictures.
        side: width and height of the pictures; None for the scenes' own.
    """

    def __init__(self, engine: Engine, contexts: Contexts, side: int | None) -> None:
        self._contexts = contexts
        self._side = side
        self._sessions = Sessions(engine, contexts, images=Images(ImageLimits()), on_miss="full", metrics=Metrics())
        self._seeds: Iterator[int] = itertools.count(1_000)

    async def ask(self, way: str, count: int) -> list[AnswerTimes]:
        """Ask so many questions at once, and wait until all pictures are described."""
        seeds = itertools.islice(self._seeds, count)
        images = [ImageBytes(await asyncio.to_thread(png, seed, self._side), "image") for seed in seeds]
        answers = await asyncio.gather(*(time_answer(partial(self._ask, way, image)) for image in images))
        if way == FIRST:
            await asyncio.gather(*(self._contexts.create(DEFAULT_TENANT, image) for image in images))
        return answers

    async def _ask(self, way: str, image: ImageBytes) -> Answer:
        session = await self._sessions.ask(
            about(_QUESTION), [image], SAMPLING, tenant=DEFAULT_TENANT, options=OPTIONS[way]
        )
        return session.answers[0]


async def measure_rounds(asker: Asker, concurrency: int, rounds: int) -> dict[str, list[list[AnswerTimes]]]:
    """Time answers in both ways, round by round."""
    times: dict[str, list[list[AnswerTimes]]] = {PLAIN: [], FIRST: []}
    for number in range(rounds + 1):
        for way in (PLAIN, FIRST) if number % 2 else (FIRST, PLAIN):
            answers = await asker.ask(way, concurrency)
            if number:  # the first round warms up
                times[way].append(answers)
    return times


def row_of(times: dict[str, list[list[AnswerTimes]]]) -> dict[str, Any]:
    """Summarize the answers; times in milliseconds."""
    row: dict[str, Any] = {}
    for figure in ("first_token", "total"):
        seconds = {way: [[getattr(one, figure) for one in answers] for answers in times[way]] for way in times}
        for way, rounds in seconds.items():
            row[f"{way}_{figure}_ms"] = Spread.of_seconds(itertools.chain(*rounds))
        pairs = zip(seconds[FIRST], seconds[PLAIN], strict=True)
        row[f"{figure}_ratio"] = Spread.of(
            statistics.median(first) / statistics.median(plain) for first, plain in pairs
        )
    return row


async def measure_engine(
    name: str, opened: AbstractAsyncContextManager[Engine], model: Model, plan: Plan
) -> list[dict[str, Any]]:
    """Measure one engine with one checkpoint."""
    rows = []
    settings = Settings()
    async with opened as engine, open_memory() as store:
        plan_of_server = replace(describe_plan(settings, engine), max_tokens=DESCRIBE_TOKENS)
        contexts = contexts_of(engine, store, plan_of_server, settings.precision)
        try:
            asker = Asker(engine, contexts, model.side)
            for concurrency in plan.concurrencies:
                times = await measure_rounds(asker, concurrency, plan.rounds)
                rows.append({"model": model.label, "engine": name, "at_once": concurrency} | row_of(times))
        finally:
            await contexts.close()
    return rows


async def measure(plan: Plan, engines: Sequence[str]) -> list[dict[str, Any]]:
    """Measure every checkpoint in every engine."""
    rows: list[dict[str, Any]] = []
    for model in plan.models:
        with tempfile.TemporaryDirectory() as folder:
            path = await asyncio.to_thread(model.write, Path(folder))
            for name in engines:
                if name == "vllm":
                    opened = load_vllm(path, model, max_images=1)
                else:
                    most = max(plan.concurrencies)
                    opened = load_engine(path, model.dtype, max_running=most, max_queue=2 * most)
                rows += await measure_engine(name, opened, model, plan)
    return rows


def main(args: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command.parser("first", __doc__, quick="the small model, one round")
    parser.add_argument("--rounds", type=positive, default=Plan().rounds, help="rounds [%(default)s]")
    names = ("transformers", "vllm")
    parser.add_argument("--engines", nargs="+", choices=names, default=names, help="which are measured [both]")
    arguments = parser.parse_args(args)
    plan = QUICK if arguments.quick else Plan(rounds=arguments.rounds)
    rows = asyncio.run(measure(plan, arguments.engines))
    print(record_table(rows, ".2f"))
    command.write_json(arguments.json, {"rows": rows})


if __name__ == "__main__":
    command.run(main)
