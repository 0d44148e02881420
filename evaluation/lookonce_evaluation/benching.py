"""What the benchmarks of both engines stand on: timed answers, their statistics, plans, and a real redis-server."""

import io
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager, nullcontext
from typing import NamedTuple

from PIL import Image

from lookonce_cache import DEFAULT_TENANT, CompressedContext, Store, open_store
from lookonce_evaluation.redis_process import RedisProcess
from lookonce_pruning import parse_window
from lookonce_scenes.world import render, sample_scene
from lookonce_server.engines.base import Answer, DescribePlan, Engine, Sampling, Started
from lookonce_server.engines.conversation import Conversation
from lookonce_server.images.decode import ImageLimits
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ContextReference, ImageBytes
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.contexts import Contexts
from lookonce_server.sessions.sessions import Sessions
from lookonce_server.settings import Settings


class Timing(NamedTuple):
    """One answer, and its times in seconds."""

    first_token: float
    total: float
    tokens: int  # generated
    computed: int  # tokens of the prompt that were run through the model


class Spread(NamedTuple):
    """The middle of some figures and how far they lie apart."""

    median: float
    quartiles: float  # their distance
    p90: float
    number: int

    @classmethod
    def of(cls, figures: Iterable[float]) -> "Spread":
        """Of one figure at least."""
        found = list(figures)
        if len(found) == 1:
            return cls(found[0], 0.0, found[0], 1)
        low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
        p90 = statistics.quantiles(found, n=10, method="inclusive")[-1]
        return cls(middle, high - low, p90, len(found))

    def __str__(self) -> str:
        """The median, and half of the quartiles' distance."""
        return f"{self.median:.1f} ± {self.quartiles / 2:.1f}"


async def measure(answer: Awaitable[Answer], started: float) -> Timing:
    """Take an answer to its end."""
    first, tokens, computed = 0.0, 0, 0
    async for event in await answer:
        if isinstance(event, Started):
            computed = event.computed_tokens
            continue
        first = first or time.perf_counter() - started
        tokens += event.tokens
    return Timing(first, time.perf_counter() - started, tokens, computed)


def png(seed: int, side: int | None = None) -> bytes:
    """A drawn scene as a client would send it, enlarged to `side` pixels."""
    picture = Image.fromarray(render(sample_scene(seed)))
    file = io.BytesIO()
    (picture.resize((side, side)) if side else picture).save(file, "PNG")
    return file.getvalue()


def plan_of(settings: Settings, layers: int, *, retention: float, max_tokens: int) -> DescribePlan:
    """The describe plan as the server makes it, but for two figures.

    Args:
        settings: the server's.
        layers: of the model.
        retention: share of the image tokens kept.
        max_tokens: most tokens of the description.
    """
    window = parse_window(settings.window, layers)
    return DescribePlan(
        prompt=settings.describe_prompt,
        max_tokens=max_tokens,
        rows=settings.rows,
        window=(window.start, window.stop),
        selection=settings.selection,
        retention=retention,
    )


class Serving(NamedTuple):
    """Contexts and sessions as the server makes them."""

    contexts: Contexts
    sessions: Sessions

    @classmethod
    def of(cls, engine: Engine, store: Store, plan: DescribePlan, precision: str) -> "Serving":
        """On an engine and a store."""
        images, metrics = Images(ImageLimits()), Metrics()
        contexts = Contexts(engine, store, plan=plan, precision=precision, images=images, metrics=metrics)
        return cls(contexts, Sessions(engine, contexts, images=images, on_miss="compress", metrics=metrics))

    async def create(self, image: bytes) -> CompressedContext:
        """The image's context."""
        return await self.contexts.create(DEFAULT_TENANT, ImageBytes(image, "image"))

    async def ask(self, conversation: Conversation, context_id: str, sampling: Sampling) -> Answer:
        """Ask about a context, given by its id."""
        source = ContextReference(context_id)
        return (await self.sessions.ask(conversation, source, sampling, tenant=DEFAULT_TENANT)).answers[0]


@asynccontextmanager
async def redis_store(given: str | None) -> AsyncIterator[Store]:
    """A store in the Redis whose URL is given, or in one started for the run."""
    with nullcontext(given) if given else RedisProcess() as server:
        store = open_store(server if isinstance(server, str) else server.url, ttl=600)
        try:
            yield store
        finally:
            await store.close()
