"""The heart: for each question, find the image's context, and decide how it is answered.

- hit: an answer pass from the context alone; the image is neither decoded nor encoded;
- miss: a full pass now, at ordinary latency, while one describe pass a new image runs behind (`on_miss="full"`), or the
  describe pass first and the answer from its context (`on_miss="compress"`);
- being described: the question waits for that pass, and is a hit.

An image is recognised by its content. A client-chosen id is never a key: `lookonce:<id>` is the content key that the
server gave out, and a context that another model made under it does not exist here.
"""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from lookonce_cache import (
    CacheError,
    CompressedContext,
    ContextIdentity,
    ContextInfo,
    Store,
    StoreUnavailableError,
    digest,
)
from lookonce_server.answers import begun
from lookonce_server.conversation import Conversation
from lookonce_server.engines.base import Answer, DescribePlan, Description, Engine, Sampling
from lookonce_server.errors import ContextLostError, ContextNotFoundError, EngineError, OverloadedError, ServerError
from lookonce_server.images import ImageLimits, decode_image
from lookonce_server.metrics import Metrics

_log = logging.getLogger(__name__)

OnMiss = Literal["full", "compress"]


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """An image as the client sent it; `param` is the request's field it came in."""

    data: bytes
    param: str


@dataclass(frozen=True, slots=True)
class ContextReference:
    """An image named by its context's id, no pixels."""

    context_id: str


ImageSource = ImageBytes | ContextReference


class Lookup(NamedTuple):
    """How a question is answered."""

    cache: Literal["hit", "miss", "none"]  # none: no image was asked about
    tier: str | None  # of the store that had the context
    context_id: str | None
    context: CompressedContext | None


class Session(NamedTuple):
    """A question under way."""

    lookup: Lookup
    answers: tuple[Answer, ...]  # to the same prompt, each a pass of its own


class Sessions:
    """Answers questions about images.

    Args:
        engine: runs the model.
        store: keeps the contexts.
        plan: how images are described and compressed.
        limits: the largest image accepted.
        on_miss: what a new image causes, unless the request says otherwise.
        metrics: what is counted.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        *,
        plan: DescribePlan,
        limits: ImageLimits,
        on_miss: OnMiss,
        metrics: Metrics,
    ) -> None:
        self._engine = engine
        self._store = store
        self._plan = plan
        self._limits = limits
        self._on_miss = on_miss
        self._metrics = metrics
        self._describing: dict[str, asyncio.Task[CompressedContext]] = {}

    async def ask(
        self,
        conversation: Conversation,
        image: ImageSource | None,
        sampling: Sampling,
        on_miss: OnMiss | None = None,
        n: int = 1,
    ) -> Session:
        """Decide how a question is answered, once for all of its `n` answers.

        A seed is the first answer's; each further one has the next: answer i is what seed + i alone would have given.

        Raises:
            ContextNotFoundError: the context named does not exist.
            InvalidImageError: a new image cannot be decoded.
            OverloadedError: the queue is full.
            ContextLostError: the context named was found, and then lost on its way to the engine.
        """
        samplings = tuple(_of_answer(sampling, i) for i in range(n))
        if image is None:
            answers = tuple(self._engine.full(conversation, None, one) for one in samplings)
            return Session(Lookup("none", None, None, None), answers)
        if isinstance(image, ContextReference):
            await self._until_made(image.context_id)
            context = await self.get(image.context_id)
            return await self._answered(context, "hit", self._store.tier, conversation, samplings)
        context_id = await asyncio.to_thread(self.context_id, image.data)
        await self._until_made(context_id)
        found = await self._find(context_id)
        compress_first = (on_miss or self._on_miss) == "compress"
        # What fails here was counted where it happened: the full pass answers all the same.
        if found is not None:
            with suppress(ContextLostError):
                return await self._answered(found, "hit", self._store.tier, conversation, samplings)
        elif compress_first:
            with suppress(EngineError):
                context = await self._describe_once(context_id, image)
                return await self._answered(context, "miss", None, conversation, samplings)
        pixels = await asyncio.to_thread(decode_image, image.data, self._limits, image.param)
        answers = tuple(self._engine.full(conversation, pixels, one) for one in samplings)
        if found is None and not compress_first:  # else it has just failed
            self._describe_behind(context_id, image)
        return Session(Lookup("miss", None, context_id, None), answers)

    async def create(self, image: ImageBytes) -> CompressedContext:
        """The context of an image, made now unless there is one.

        Raises:
            InvalidImageError, OverloadedError, EngineError: as the describe pass does.
        """
        context_id = await asyncio.to_thread(self.context_id, image.data)
        return await self._find(context_id) or await self._describe_once(context_id, image)

    async def prepare(self, image: ImageBytes) -> ContextInfo:
        """See that the image's context is in the store, and tell about it.

        Raises:
            InvalidImageError, OverloadedError, EngineError: as the describe pass does.
            StoreUnavailableError: the context was made, but the store does not have it.
        """
        context = await self.create(image)
        info = await self._store.info(context.id)
        if info is None:
            raise StoreUnavailableError("The context was made, but the store did not keep it: it has no room for it.")
        return info

    async def get(self, context_id: str) -> CompressedContext:
        """The context with that id.

        Raises:
            ContextNotFoundError: there is none, or another model made it.
            StoreUnavailableError: the store does not answer.
        """
        context = await self._store.get(context_id)
        if context is None or context.model_fingerprint != self._engine.facts.fingerprint:
            self._metrics.lookups.labels("miss", self._store.tier).inc()
            raise ContextNotFoundError(context_id)
        self._metrics.lookups.labels("hit", self._store.tier).inc()
        return context

    async def info(self, context_id: str) -> ContextInfo:
        """What is known of a context, without using it; raises ContextNotFoundError."""
        info = await self._store.info(context_id)
        if info is None:
            raise ContextNotFoundError(context_id)
        return info

    async def list(self, limit: int) -> tuple[ContextInfo, ...]:
        """The contexts in the store, at most `limit`."""
        return await self._store.list(limit)

    async def delete(self, context_id: str) -> None:
        """Forget a context; raises ContextNotFoundError where there is none."""
        if not await self._store.delete(context_id):
            raise ContextNotFoundError(context_id)

    async def close(self) -> None:
        """Abandon the describe passes that run behind."""
        tasks = list(self._describing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def context_id(self, data: bytes) -> str:
        """The content key of an image under this model and plan."""
        facts, plan = self._engine.facts, self._plan
        return ContextIdentity(
            tenant="",
            model_fingerprint=facts.fingerprint,
            image_digest=digest(data),
            describe_prompt=plan.prompt,
            template_digest=facts.template_digest,
            retention=plan.retention,
            selection=f"{plan.selection}/{plan.rows}/{plan.max_tokens}",
            window=plan.window,
            precision=facts.precision,
        ).key()

    async def _answered(
        self,
        context: CompressedContext,
        cache: Literal["hit", "miss"],
        tier: str | None,
        conversation: Conversation,
        samplings: tuple[Sampling, ...],
    ) -> Session:
        """The session of an answer from a context, begun: what is wrong with the context has shown by then."""
        try:
            answers = await begun([self._engine.answer(context, conversation, one) for one in samplings])
        except ContextLostError as error:
            self._metrics.store_errors.labels("load").inc()
            _log.warning("context %s: %s", context.id[:12], error)
            raise
        return Session(Lookup(cache, tier, context.id, context), answers)

    async def _until_made(self, context_id: str) -> None:
        """Wait for the describe pass that is making this context, if one is: its work is paid for already."""
        making = self._describing.get(context_id)
        if making is not None:
            await asyncio.wait((making,))

    async def _find(self, context_id: str) -> CompressedContext | None:
        """The context of an image whose pixels are at hand: a store that fails is a miss."""
        try:
            return await self.get(context_id)
        except ContextNotFoundError:
            return None
        except StoreUnavailableError as error:
            self._store_failed("get", error)
            return None

    def _describe_behind(self, context_id: str, image: ImageBytes) -> None:
        task = self._describe_task(context_id, image)
        # Nobody waits for it: its failure is counted where it happens, and must not be reported as never retrieved.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _describe_once(self, context_id: str, image: ImageBytes) -> CompressedContext:
        # Shielded: others may wait for the same pass, and the next question wants its context.
        return await asyncio.shield(self._describe_task(context_id, image))

    def _describe_task(self, context_id: str, image: ImageBytes) -> asyncio.Task[CompressedContext]:
        """The one describe pass of an image in this process."""
        task = self._describing.get(context_id)
        if task is None:
            task = asyncio.create_task(self._describe(context_id, image))
            self._describing[context_id] = task
            task.add_done_callback(lambda _: self._describing.pop(context_id, None))
        return task

    async def _describe(self, context_id: str, image: ImageBytes) -> CompressedContext:
        started = time.monotonic()
        try:
            pixels = await asyncio.to_thread(decode_image, image.data, self._limits, image.param)
            found = await self._engine.describe(pixels, self._plan)
            context = self._context(context_id, image, found)
        except Exception as error:
            self._metrics.describes.labels("refused" if isinstance(error, OverloadedError) else "failed").inc()
            unexpected = not isinstance(error, (ServerError, CacheError))
            _log.warning("describe pass of %s: %s", context_id[:12], error, exc_info=unexpected)
            raise
        await self._keep(context)
        self._metrics.describes.labels("done").inc()
        self._metrics.describe_seconds.observe(time.monotonic() - started)
        self._metrics.context_bytes.observe(context.nbytes)
        return context

    def _context(self, context_id: str, image: ImageBytes, found: Description) -> CompressedContext:
        return CompressedContext(
            id=context_id,
            keys=found.keys,
            values=found.values,
            next_position=found.keys.shape[2],
            full_tokens=found.prompt_tokens,
            image_tokens=len(found.scores),
            kept_indices=found.kept,
            scores=found.scores,
            grid=found.grid,
            description=found.text,
            describe_prompt=self._plan.prompt,
            model_fingerprint=self._engine.facts.fingerprint,
            image_digest=digest(image.data),
            retention=self._plan.retention,
            selection=self._plan.selection,
            created_at=time.time(),
        )

    async def _keep(self, context: CompressedContext) -> None:
        """Store a context; one that cannot be stored still answers those who wait for it."""
        try:
            await self._store.put(context)
        except CacheError as error:
            self._store_failed("put", error)

    def _store_failed(self, operation: str, error: CacheError) -> None:
        self._metrics.store_errors.labels(operation).inc()
        _log.warning("store %s: %s", operation, error)


def _of_answer(sampling: Sampling, i: int) -> Sampling:
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + i)
