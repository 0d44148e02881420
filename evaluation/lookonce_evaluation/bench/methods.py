"""Answer a later question about an image by several methods, as a server does."""

import asyncio
import io
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

from PIL import Image

from lookonce_cache import DEFAULT_TENANT, CompressedContext, ContextKey, Store, digest, open_store
from lookonce_evaluation.bench.fixtures import RedisServer
from lookonce_evaluation.bench.timing import Ask, time_answer
from lookonce_evaluation.errors import EvaluationError
from lookonce_scenes.world import render, sample_scene
from lookonce_server.app import describe_plan
from lookonce_server.engines.base import Answer, DescribePlan, Engine, Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.images.decode import ImageLimits, decode_image
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ContextReference, ImageBytes
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.contexts import Contexts
from lookonce_server.sessions.sessions import Sessions
from lookonce_server.settings import Settings

FULL, PREFIX = "full pass", "full pass, prefix cache"


class Method(Protocol):
    """A method to answer questions."""

    name: str
    nbytes: int  # kept for what a question is about

    def prepare(self, questions: Sequence[str], sampling: Sampling) -> AbstractAsyncContextManager[list[Ask]]:
        """Prepare questions, untimed; within the block each may be asked once."""


class FullPass:
    """Answer by the full pass, each question about pictures new to the engine.

    Args:
        engine: answers the questions.
        side: width and height of the pictures; None for the scenes' own.
        images: pictures that a question is about.
    """

    name = FULL
    nbytes = 0

    def __init__(self, engine: Engine, side: int | None = None, images: int = 1) -> None:
        self._engine = engine
        self._side = side
        self._images = images
        self._seeds = itertools.count(1_000)

    @asynccontextmanager
    async def prepare(self, questions: Sequence[str], sampling: Sampling) -> AsyncIterator[list[Ask]]:
        """See `Method.prepare`."""
        pictures = await asyncio.to_thread(lambda: [self._pictures() for _ in questions])
        pairs = zip(pictures, questions, strict=True)
        yield [partial(full_pass, self._engine, own, about(question, len(own)), sampling) for own, question in pairs]

    def _pictures(self) -> list[bytes]:
        return [png(next(self._seeds), self._side) for _ in range(self._images)]


class PrefixCached(FullPass):
    """Answer by the full pass about one picture, from vLLM's prefix cache."""

    name = PREFIX

    def __init__(self, engine: Engine, contexts: "PictureContexts") -> None:
        super().__init__(engine)
        self._contexts = contexts
        self.nbytes = contexts.full_bytes

    @asynccontextmanager
    async def prepare(self, questions: Sequence[str], sampling: Sampling) -> AsyncIterator[list[Ask]]:
        """See `Method.prepare`."""
        async with super().prepare(["Is it warm?", *questions], sampling) as (warm_up, *asks):
            await time_answer(warm_up)
            yield asks

    def _pictures(self) -> list[bytes]:
        return [self._contexts.image]


class FromContext:
    """Answer from a context, by its id, or from several that are joined.

    Each question is about contexts of its own ids, though their tensors are the same: vLLM never has them, and each one
    is read from the store, handed over and loaded. If contexts are known, all questions are about the same ones, and
    there was one before.

    Args:
        name: of the method.
        engine: answers.
        store: holds the contexts.
        context: what is asked about.
        plan: by which it was described.
        images: contexts that a question is about.
        is_known: whether something was asked about them before.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        store: Store,
        context: CompressedContext,
        plan: DescribePlan,
        *,
        images: int = 1,
        is_known: bool = False,
    ) -> None:
        self.name = name
        self._is_known = is_known
        self.nbytes = images * context.nbytes
        self._images = images
        self.context = context
        self._store = store
        contexts = contexts_of(engine, store, plan, context.identity.precision)
        self._sessions = Sessions(engine, contexts, images=Images(ImageLimits()), on_miss="compress", metrics=Metrics())
        self._numbers = itertools.count()

    @asynccontextmanager
    async def prepare(self, questions: Sequence[str], sampling: Sampling) -> AsyncIterator[list[Ask]]:
        """See `Method.prepare`."""
        keys = [
            [await self._put_copy() for _ in range(self._images)]
            for _ in (questions[:1] if self._is_known else questions)
        ]
        if self._is_known:
            await time_answer(partial(self._ask, keys[0], "Is it known?", sampling))
        try:
            pairs = zip(itertools.cycle(keys), questions)
            yield [partial(self._ask, own, question, sampling) for own, question in pairs]
        finally:
            for key in itertools.chain(*keys):
                await self._store.delete(key)

    async def _put_copy(self) -> ContextKey:
        """Store the context as if it were another image's."""
        identity = replace(self.context.identity, image_digest=digest(str(next(self._numbers)).encode()))
        copy = replace(self.context, identity=identity)
        await self._store.put(copy)
        return copy.key

    async def _ask(self, keys: Sequence[ContextKey], question: str, sampling: Sampling) -> Answer:
        references = [ContextReference(key.id) for key in keys]
        conversation = about(question, len(references))
        session = await self._sessions.ask(conversation, references, sampling, tenant=DEFAULT_TENANT)
        return session.answers[0]


def about(question: str, images: int = 1) -> Conversation:
    """Return a question about an image, or about several."""
    return Conversation((Turn("user", (*range(images), question)),))


async def full_pass(engine: Engine, images: Sequence[bytes], conversation: Conversation, sampling: Sampling) -> Answer:
    """Answer from whole images, as sessions do at a miss."""
    decoded = [await asyncio.to_thread(decode_image, image, ImageLimits(), "image") for image in images]
    return engine.full(conversation, decoded, sampling, DEFAULT_TENANT)


async def check_answers(
    engine: Engine,
    contexts: "PictureContexts",
    methods: Sequence[FromContext],
    questions: Sequence[str],
    sampling: Sampling,
) -> None:
    """Check that greedy answers from contexts are the right ones.

    With everything kept it is the answer of the full pass over the same turns; otherwise it is the same from every
    store.

    Raises:
        EvaluationError: an answer is another one.
    """
    for question in questions:
        turns = (Turn("user", (0, contexts.plan.prompt)), Turn("assistant", ()), Turn("user", (question,)))
        full = await time_answer(partial(full_pass, engine, [contexts.image], Conversation(turns), sampling))
        expected = {contexts.everything.id: full.text}
        for method in methods:
            async with method.prepare([question], sampling) as (ask,):
                text = (await time_answer(ask)).text
            if text != (right := expected.setdefault(method.context.id, text)):
                raise EvaluationError(f"{method.name}: {question!r} was answered by {text!r}; right is {right!r}")


class PictureContexts(NamedTuple):
    """A picture, and its contexts by the server's settings and with everything kept."""

    image: bytes
    plan: DescribePlan
    compressed: CompressedContext
    everything: CompressedContext

    @property
    def full_bytes(self) -> int:
        """Bytes of the keys and values of the whole prompt."""
        return self.everything.full_tokens * (self.everything.nbytes // self.everything.stored_tokens)


async def describe_picture(engine: Engine, image: bytes, settings: Settings, max_tokens: int) -> PictureContexts:
    """Describe a picture as a server does, in at most so many tokens."""
    plan = replace(describe_plan(settings, engine), max_tokens=max_tokens)
    everything = replace(plan, retention=1.0)
    async with open_memory() as store:
        compressed, full = [
            await contexts_of(engine, store, own, precision).create(DEFAULT_TENANT, ImageBytes(image, "image"))
            for own, precision in ((plan, settings.precision), (everything, "native"))
        ]
    return PictureContexts(image, plan, compressed, full)


def png(seed: int, side: int | None = None) -> bytes:
    """Draw a scene as a client would send it, enlarged to `side` pixels."""
    picture = Image.fromarray(render(sample_scene(seed)))
    file = io.BytesIO()
    (picture.resize((side, side)) if side else picture).save(file, "PNG")
    return file.getvalue()


def open_memory() -> AbstractAsyncContextManager[Store]:
    """Open a store in memory."""
    return _open("memory://?max_bytes=4GiB")


@asynccontextmanager
async def open_redis() -> AsyncIterator[Store]:
    """Open a store in a redis-server that is started for it."""
    with RedisServer() as server:
        async with _open(server.url) as store:
            yield store


@asynccontextmanager
async def _open(url: str) -> AsyncIterator[Store]:
    store = open_store(url, ttl=600)
    try:
        yield store
    finally:
        await store.close()


def contexts_of(engine: Engine, store: Store, plan: DescribePlan, precision: str) -> Contexts:
    """Return a store's contexts, as an engine makes and uses them."""
    return Contexts(engine, store, plan=plan, precision=precision, images=Images(ImageLimits()), metrics=Metrics())
