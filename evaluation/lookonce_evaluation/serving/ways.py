"""The ways to answer a later question, each through what a server does for it, from the image or its name on."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

from lookonce_cache import DEFAULT_TENANT, CompressedContext, ContextKey, Store, digest, open_store
from lookonce_evaluation.benching import Serving, measure, plan_of, png
from lookonce_evaluation.serving.clock import ClockedEngine
from lookonce_evaluation.serving.loop import Ask
from lookonce_server.engines.base import Answer, DescribePlan, Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.images.decode import ImageLimits, decode_image
from lookonce_server.settings import Settings

FULL, PREFIX = "full pass", "full pass, prefix cache"
MEMORY, REDIS, EVERYTHING = "compressed, memory", "compressed, Redis", "full KV, Redis"
_LIMITS = ImageLimits()


def about(question: str) -> Conversation:
    """A question about an image."""
    return Conversation((Turn("user", question, has_image=True),))


def after_describing(prompt: str, question: str) -> Conversation:
    """What a context at retention 1.0 stands for: the describe turn, closed, and a question."""
    return Conversation((Turn("user", prompt, has_image=True), Turn("assistant", ""), Turn("user", question)))


async def full_pass(engine: ClockedEngine, image: bytes, conversation: Conversation, sampling: Sampling) -> Answer:
    """An ordinary answer, as `Sessions` gives it at a miss."""
    pixels = await asyncio.to_thread(decode_image, image, _LIMITS, "image")
    return engine.full(conversation, pixels, sampling, DEFAULT_TENANT)


class Way(Protocol):
    """A way to answer."""

    name: str
    engine: ClockedEngine
    nbytes: int  # kept for one image

    async def prepare(self, questions: Sequence[str], sampling: Sampling) -> list[Ask]:
        """What is done ahead, untimed; then each question may be asked once."""

    async def tidy(self) -> None:
        """The questions are answered."""


class EveryTime:
    """The full pass with nothing cached: each question is about a picture that was never seen.

    Args:
        engine: without prefix cache and processor cache.
        side: the pictures' width and height, None for the world's own.
    """

    def __init__(self, name: str, engine: ClockedEngine, side: int | None) -> None:
        self.name = name
        self.engine = engine
        self.nbytes = 0
        self._side = side
        self._seeds = count(1_000)

    async def prepare(self, questions: Sequence[str], sampling: Sampling) -> list[Ask]:
        """See `Way`."""
        images = await asyncio.to_thread(lambda: [png(next(self._seeds), self._side) for _ in questions])

        def ask(image: bytes, question: str) -> Ask:
            return lambda: full_pass(self.engine, image, about(question), sampling)

        return [ask(*one) for one in zip(images, questions, strict=True)]

    async def tidy(self) -> None:
        """See `Way`."""


class PrefixCached:
    """The full pass with the picture's keys and values in vLLM's prefix cache, and its pixels in the processor's."""

    def __init__(self, name: str, engine: ClockedEngine, image: bytes, nbytes: int) -> None:
        self.name = name
        self.engine = engine
        self.nbytes = nbytes
        self._image = image

    async def prepare(self, questions: Sequence[str], sampling: Sampling) -> list[Ask]:
        """See `Way`."""
        await measure(full_pass(self.engine, self._image, about("Is it warm?"), sampling), 0.0)

        def ask(question: str) -> Ask:
            return lambda: full_pass(self.engine, self._image, about(question), sampling)

        return [ask(question) for question in questions]

    async def tidy(self) -> None:
        """See `Way`."""


class FromStore:
    """Our answer pass, by a context's name.

    Each question is about a context of another name, though their tensors are the same: vLLM's own prefix cache never
    has it, and every one is read from the store and loaded.
    """

    def __init__(
        self, name: str, engine: ClockedEngine, store: Store, context: CompressedContext, plan: DescribePlan
    ) -> None:
        self.name = name
        self.engine = engine
        self.nbytes = context.nbytes
        self._store = store
        self._context = context
        self._serving = Serving.of(engine, store, plan, context.identity.precision)
        self._numbers = count()
        self._stored: list[ContextKey] = []

    async def prepare(self, questions: Sequence[str], sampling: Sampling) -> list[Ask]:
        """See `Way`."""
        for _ in questions:
            identity = replace(self._context.identity, image_digest=digest(str(next(self._numbers)).encode()))
            named = replace(self._context, identity=identity)
            await self._store.put(named)
            self._stored.append(named.key)

        def ask(key: ContextKey, question: str) -> Ask:
            async def asked() -> Answer:
                return await self._serving.ask(about(question), key.id, sampling)

            return asked

        return [ask(*one) for one in zip(self._stored, questions, strict=True)]

    async def tidy(self) -> None:
        """See `Way`."""
        while self._stored:
            await self._store.delete(self._stored.pop())


@dataclass
class Ways:
    """All the ways with one model, and what they are checked with."""

    nothing_cached: ClockedEngine
    engine: ClockedEngine
    image: bytes
    plan: DescribePlan
    everything: CompressedContext
    all: dict[str, Way]


async def make_ways(
    nothing_cached: ClockedEngine,
    engine: ClockedEngine,
    redis: Store,
    settings: Settings,
    *,
    said: int,
    side: int | None,
) -> Ways:
    """Describe a picture, with everything kept and compressed, and give the ways to ask about it.

    Args:
        nothing_cached, engine: without and with caches.
        redis: the store.
        settings: the server's.
        said: most tokens of the description.
        side: pictures' width and height, None for the world's own.
    """
    memory = open_store("memory://?max_bytes=4GiB")
    image = png(1, side)
    layers = engine.facts.num_layers
    plans = [plan_of(settings, layers, retention=share, max_tokens=said) for share in (settings.retention, 1.0)]
    precisions = (settings.precision, "native")
    contexts = [
        await Serving.of(engine, memory, plan, precision).create(image)
        for plan, precision in zip(plans, precisions, strict=True)
    ]
    (compressed, everything), (plan, whole) = contexts, plans
    ways: list[Way] = [
        EveryTime(FULL, nothing_cached, side),
        PrefixCached(PREFIX, engine, image, everything.full_tokens * (everything.nbytes // everything.stored_tokens)),
        FromStore(MEMORY, engine, memory, compressed, plan),
        FromStore(REDIS, engine, redis, compressed, plan),
        FromStore(EVERYTHING, engine, redis, everything, whole),
    ]
    return Ways(nothing_cached, engine, image, plan, everything, {way.name: way for way in ways})
