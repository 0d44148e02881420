"""What a later question costs, four ways side by side: `python -m lookonce_evaluation.bench` (`make bench`).

- full pass: the whole image again;
- full KV: everything kept, from memory (what a prefix cache does at best);
- compressed: the context at the chosen retention, from memory, and from a real redis-server.

One run measures all of them in turn, round by round, so that what else the machine does falls on all alike. Times are
medians with the quartiles' distance; ratios are what to compare.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lookonce_cache import DEFAULT_TENANT, Store, open_store
from lookonce_evaluation.benching import Serving, Spread, Timing, measure, plan_of, png, redis_store
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.describe import describe
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.shapes import write_llava
from lookonce_evaluation.tables import header, line
from lookonce_scenes import CHECKPOINT
from lookonce_server.conversation import Conversation, Turn
from lookonce_server.engines.base import Answer, Sampling
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.images import ImageLimits, decode_image
from lookonce_server.settings import BUNDLED, Settings

_QUESTION = Conversation((Turn("user", "How many objects are there in the image?", has_image=True),))
_SETTINGS = Settings()
_DESCRIBE_TOKENS = 16
SIZES = (196, 576, 1024, 2304)


@dataclass
class Way:
    """One way to answer, and what it took."""

    name: str
    ask: Callable[[], Awaitable[Answer]]
    bytes: int  # kept for one image
    timings: list[Timing] = field(default_factory=list)


async def later_questions(name: str, serving: Serving, image: bytes, sampling: Sampling) -> Way:
    """A way that answers from the image's context, made here."""
    context = await serving.create(image)

    async def ask() -> Answer:
        return await serving.ask(_QUESTION, context.id, sampling)

    return Way(name, ask, context.nbytes)


async def bench_model(path: str, dtype: torch.dtype, redis: Store, rounds: int, tokens: int) -> list[Way]:
    """All ways on one checkpoint."""
    engine = await TransformersEngine.load(
        path, dtype=dtype, device="cpu", describe_prompt=_SETTINGS.describe_prompt, max_running=1, max_queue=8
    )
    try:
        image = png(1)
        picture = decode_image(image, ImageLimits(), "image")
        memory = open_store("memory://?max_bytes=4GiB")
        sampling = Sampling(max_tokens=tokens)

        async def full() -> Answer:
            return engine.full(_QUESTION, picture, sampling, DEFAULT_TENANT)

        def serving(store: Store, retention: float, precision: str = _SETTINGS.precision) -> Serving:
            layers = engine.facts.num_layers
            plan = plan_of(_SETTINGS, layers, retention=retention, max_tokens=_DESCRIBE_TOKENS)
            return Serving.of(engine, store, plan, precision)

        kept = _SETTINGS.retention
        ways = [
            Way("full pass", full, 0),
            await later_questions("full KV, memory", serving(memory, 1.0, "native"), image, sampling),
            await later_questions("compressed, memory", serving(memory, kept), image, sampling),
            await later_questions("compressed, Redis", serving(redis, kept), image, sampling),
        ]
        for number in range(rounds + 1):
            for way in ways:
                timing = await measure(way.ask(), time.perf_counter())
                if number:  # the first round warms up
                    way.timings.append(timing)
        return ways
    finally:
        await engine.close()


def lines(model: str, image_tokens: int, ways: list[Way]) -> list[str]:
    """The table's lines of one checkpoint."""
    base = ways[0]
    made = []
    for way in ways:
        cells = [model, str(image_tokens), way.name]
        for part in ("first_token", "total"):
            here, there = (Spread.of(1000 * getattr(timing, part) for timing in one.timings) for one in (way, base))
            cells += [str(here), f"{there.median / here.median:.1f}x"]
        cells.append(f"{way.bytes / 1024:.0f}" if way.bytes else "-")
        made.append(line(cells))
    return made


HEADER = header(
    "model",
    "image tokens",
    "a later question by",
    "first token, ms",
    "faster",
    "whole answer, ms",
    "faster",
    "KiB kept",
)


def recording_cost(rounds: int) -> str:
    """What recording adds to a describe pass of the scenes model, its scores included: one line."""
    model = EvalModel.load(BUNDLED, _SETTINGS)
    (case,) = held_out(1)
    window = model.window(_SETTINGS.window)
    plain, recorded = [], []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        model.decode(model.prefill(model.prompts.describe(_SETTINGS.describe_prompt, case.image)), 128)
        between = time.perf_counter()
        describe(model, case, window).scores()
        plain.append(between - started)
        recorded.append(time.perf_counter() - between)
    without, with_it = (1000 * statistics.median(times[1:]) for times in (plain, recorded))
    return (
        f"Describe pass of the scenes model: {without:.1f} ms, recorded {with_it:.1f} ms, {with_it / without:.3f}x"
        f" (medians of {rounds})."
    )


async def run(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    print(recording_cost(8 * arguments.rounds) + "\n", flush=True)
    print(HEADER, flush=True)
    async with redis_store(arguments.redis) as redis:
        ways = await bench_model(str(CHECKPOINT), torch.float32, redis, 4 * arguments.rounds, arguments.tokens)
        print("\n".join(lines("scenes, 5.0 M, float32", 196, ways)), flush=True)
        for image_tokens in arguments.sizes:
            with tempfile.TemporaryDirectory() as folder:
                path = write_llava(Path(folder) / "llava", image_tokens)
                ways = await bench_model(str(path), torch.bfloat16, redis, arguments.rounds, arguments.tokens)
            print("\n".join(lines("LLaVA shape, 0.9 B, bfloat16", image_tokens, ways)), flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m lookonce_evaluation.bench", description=__doc__)
    parser.add_argument("--redis", help="URL of a Redis; default: one is started")
    parser.add_argument("--rounds", type=int, default=5, help="answers a way; four times as many by the small model")
    parser.add_argument("--tokens", type=int, default=8, help="tokens of an answer [%(default)s]")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="image tokens, squares [%(default)s]")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
