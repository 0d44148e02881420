"""The contexts of images: found, made once, shown and forgotten.

An image is recognised by its content. A client-chosen id is never a key: `lookonce:<id>` is the content key that the
server gave out, and a context that another tenant owns, or another model made, does not exist here.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable
from typing import NamedTuple

from lookonce_cache import (
    CompressedContext,
    ContextIdentity,
    ContextInfo,
    ContextKey,
    InvalidContextError,
    Page,
    Store,
    StoreHit,
    StoreStats,
    StoreUnavailableError,
    WritesRefusedError,
)
from lookonce_server.engines.base import DescribePlan, Engine
from lookonce_server.errors import (
    ContextNotFoundError,
    ContextNotKeptError,
    InvalidImageError,
    PromptTooLongError,
    ShuttingDownError,
)
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ImageBytes
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.context_builder import ContextBuilder
from lookonce_server.sessions.context_options import NO_OPTIONS, ContextLimits, ContextOptions
from lookonce_server.sessions.describe_queue import DescribeJob, DescribeQueue
from lookonce_server.sessions.image_store import KeptImages

_log = logging.getLogger(__name__)
_LIMITS = ContextLimits()


class Prepared(NamedTuple):
    """A context that is in the store."""

    info: ContextInfo
    created: bool  # by a describe pass of this server, which the request waited for


class TenantStats(NamedTuple):
    """What a tenant's contexts amount to."""

    stored: StoreStats
    hits: int  # lookups that found a context, in this process
    misses: int


class Contexts:
    """The contexts of a store, as one model makes and uses them.

    Args:
        engine: runs the model.
        store: keeps the contexts.
        plan: how images are described and compressed, unless a request wants it otherwise.
        precision: in which keys and values are stored.
        images: decodes them.
        metrics: what is counted.
        limits: what a request may want.
        keep_images: whether images are kept beside their contexts.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        *,
        plan: DescribePlan,
        precision: str,
        images: Images,
        metrics: Metrics,
        limits: ContextLimits = _LIMITS,
        keep_images: bool = False,
    ) -> None:
        self._fingerprint = engine.facts.fingerprint
        self._store = store
        self._metrics = metrics
        self._describer = ContextBuilder(engine, plan, limits, precision=precision, images=images)
        self._lookups: Counter[tuple[str, bool]] = Counter()  # by tenant, and whether there was a context
        self._kept_images = KeptImages(store)
        self._keep_images = keep_images
        self.maker = DescribeQueue(store, metrics)

    def check(self, options: ContextOptions) -> None:
        """Raise InvalidRequestError, naming the field, unless a request may want that."""
        self._describer.check(options)

    def identity(self, tenant: str, data: bytes, options: ContextOptions = NO_OPTIONS) -> ContextIdentity:
        """What the context of an image is a function of, under this model, as the request wants it."""
        return self._describer.identity(tenant, data, options)

    async def find(self, key: ContextKey, ttl: float | None = None) -> StoreHit | None:
        """The context of an image whose pixels are at hand: a store that fails is a miss."""
        try:
            return await self._look_up(key, ttl)
        except StoreUnavailableError as error:
            _log.warning("%s", error)
            return None

    async def get_or_wait(self, key: ContextKey, ttl: float | None = None) -> StoreHit | None:
        """The context, after a describe pass that is under way, here or elsewhere."""
        found = await self.find(key, ttl)
        if found is None and await self.maker.until_made(key):
            found = await self.find(key, ttl)
        return found

    async def get(self, tenant: str, context_id: str, ttl: float | None = None) -> StoreHit:
        """The context with that id, after a describe pass that is making it.

        Raises:
            ContextNotFoundError: there is none, it is another tenant's, another model made it, or what the template
                prints around the image has changed since, as a date does.
            StoreUnavailableError: the store does not answer.
        """
        key = _key(tenant, context_id)
        found = await self._look_up(key, ttl)
        if found is None and await self.maker.until_made(key):
            found = await self._look_up(key, ttl)
        if found is None:
            raise ContextNotFoundError(context_id)
        return found

    def make(
        self,
        identity: ContextIdentity,
        image: ImageBytes,
        *,
        ttl: float | None = None,
        after: asyncio.Event | None = None,
        must_keep: bool = False,
    ) -> DescribeJob:
        """The one making of an image's context; see `DescribeQueue.make`.

        The task's errors are InvalidImageError, PromptTooLongError, OverloadedError, EngineError, and those of giving
        up.
        """
        key = identity.key()

        def keep() -> Awaitable[None]:
            return self._kept_images.keep(key, image.data, ttl)

        return self.maker.make(
            key,
            lambda heard: self._describer.describe(identity, image, heard),
            ttl=ttl,
            after=after,
            must_keep=must_keep,
            once_kept=keep if self._keep_images else None,
        )

    async def made(self, making: DescribeJob, image: ImageBytes, options: ContextOptions) -> CompressedContext:
        """What is being made, once it is.

        Raises:
            InvalidImageError, PromptTooLongError: naming this request's own field, whoever began the pass.
            OverloadedError, EngineError: as the describe pass does.
            ContextNotKeptError, StoreUnavailableError: nothing was made, since the store would not keep it.
            ShuttingDownError: it had not begun when the server was told to stop.
        """
        try:
            # Shielded: others may wait for the same pass, and the next question wants its context.
            context = await asyncio.shield(making.task)
        except InvalidImageError as error:
            raise InvalidImageError(str(error), param=image.param) from error
        except asyncio.CancelledError:
            asking = asyncio.current_task()
            if making.task.cancelled() and asking is not None and not asking.cancelling():
                raise ShuttingDownError("The server is shutting down: the image is not described any more.") from None
            raise
        except PromptTooLongError as error:
            param = image.param if options.describe_prompt is None else f"{options.place}describe_prompt"
            raise PromptTooLongError(str(error), param=param) from error
        if options.ttl != making.ttl:
            await self._touch(context.key, options.ttl)
        return context

    async def create(self, tenant: str, image: ImageBytes, options: ContextOptions = NO_OPTIONS) -> CompressedContext:
        """The context of an image, made now unless there is one; raises what `made` does."""
        identity = await asyncio.to_thread(self.identity, tenant, image.data, options)
        if found := await self.find(identity.key(), options.ttl):
            return found.context
        return await self.made(self.make(identity, image, ttl=options.ttl), image, options)

    async def prepare(
        self, tenant: str, image: ImageBytes, options: ContextOptions = NO_OPTIONS
    ) -> AsyncGenerator[str | Prepared]:
        """Yield the description as it is made, then the stored context.

        Raises:
            InvalidImageError, PromptTooLongError, OverloadedError, EngineError: as `made` does.
            ContextNotKeptError: the store does not have the context, or takes none: then it was not made.
            StoreUnavailableError: the store does not answer.
        """
        identity = await asyncio.to_thread(self.identity, tenant, image.data, options)
        key, created = identity.key(), False
        if await self.find(key, options.ttl) is None:
            making = self.make(identity, image, ttl=options.ttl, must_keep=True)
            async for text in making.progress.follow():
                yield text
            try:
                key = (await self.made(making, image, options)).key
            except WritesRefusedError as error:
                raise ContextNotKeptError(
                    "The store takes no contexts for now; it has no room, or only reads."
                ) from error
            created = making.progress.begun
        info = await self._store.info(key)
        if info is None:
            raise ContextNotKeptError(
                "The context was made, but the store does not have it: it has no room for it, or its ttl is over."
            )
        yield Prepared(info, created)

    async def peek(self, tenant: str, context_id: str) -> CompressedContext:
        """A context to look at, which does not count as use; raises ContextNotFoundError."""
        context = await self._store.peek(_key(tenant, context_id))
        if context is None or context.identity.model_fingerprint != self._fingerprint:
            raise ContextNotFoundError(context_id)
        return context

    async def info(self, tenant: str, context_id: str) -> ContextInfo:
        """What is known of a context, without using it; raises ContextNotFoundError."""
        info = await self._store.info(_key(tenant, context_id))
        if info is None or not self._is_ours(info):
            raise ContextNotFoundError(context_id)
        return info

    async def list(self, tenant: str, limit: int, after: str | None = None) -> Page:
        """A tenant's contexts, at most `limit` a page, those of this model."""
        page = await self._store.list(tenant, limit=limit, after=after)
        return page._replace(infos=tuple(filter(self._is_ours, page.infos)))

    async def delete(self, tenant: str, context_id: str) -> None:
        """Forget a context, and its image where that was kept; raises ContextNotFoundError where there is none."""
        key = _key(tenant, context_id)
        was_there = await self._store.delete(key)
        await self._kept_images.forget(key)  # whatever is set now: it may have been kept before
        if not was_there:
            raise ContextNotFoundError(context_id)

    async def kept_image(self, key: ContextKey, ttl: float | None = None) -> ImageBytes | None:
        """The image that a context was made of, where it is kept. Counts as use."""
        return await self._kept_images.find(key, ttl) if self._keep_images else None

    async def stats(self, tenant: str) -> TenantStats:
        """What a tenant's contexts amount to, those of other models with the same store included."""
        stored_ = await self._store.stats(tenant)
        return TenantStats(stored_, self._lookups[tenant, True], self._lookups[tenant, False])

    async def close(self) -> None:
        """Abandon the describe passes that run behind."""
        await self.maker.close()

    async def _look_up(self, key: ContextKey, ttl: float | None) -> StoreHit | None:
        try:
            found = await self._store.get(key, ttl=ttl)
        except StoreUnavailableError:
            self._metrics.lookups.labels("unavailable", self._store.tier).inc()
            raise
        if found is not None and not await asyncio.to_thread(self._describer.is_current, found.context.identity):
            found = None
        self._lookups[key.tenant, found is not None] += 1
        self._metrics.lookups.labels("hit" if found else "miss", found.tier if found else self._store.tier).inc()
        return found

    async def _touch(self, key: ContextKey, ttl: float | None) -> None:
        """Renew a context that was made for another request, with another ttl."""
        try:
            await self._store.touch(key, ttl=ttl)
        except StoreUnavailableError as error:
            _log.warning("%s", error)

    def _is_ours(self, info: ContextInfo) -> bool:
        return info.model_fingerprint == self._fingerprint


def _key(tenant: str, context_id: str) -> ContextKey:
    try:
        return ContextKey(tenant, context_id)
    except InvalidContextError:
        raise ContextNotFoundError(context_id) from None
