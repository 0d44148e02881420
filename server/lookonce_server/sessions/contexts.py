"""The contexts of images: looked up, made once, listed and deleted.

An image is recognised by its content. A client-chosen id is never a key: `lookonce:<id>` is the content key that the
server gave out, and a context of another tenant, or of another model, does not exist here.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator
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
from lookonce_server.errors import ContextNotFoundError, ContextNotKeptError, InvalidImageError, PromptTooLongError
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ImageBytes
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.context_builder import ContextBuilder
from lookonce_server.sessions.context_options import NO_OPTIONS, ContextLimits, ContextOptions
from lookonce_server.sessions.describe_queue import DescribeJob, DescribeQueue
from lookonce_server.sessions.image_store import ImageStore
from lookonce_server.tracing.spans import annotate, span

_log = logging.getLogger(__name__)
_LIMITS = ContextLimits()


class Prepared(NamedTuple):
    """A context that is in the store."""

    info: ContextInfo
    created: bool  # by a describe pass of this server that the request waited for


class TenantStats(NamedTuple):
    """A tenant's contexts and lookups, in sum."""

    stored: StoreStats
    hits: int  # lookups that found a context, in this process
    misses: int
    saved_tokens: int  # prompt tokens that full passes would have run, in this process


class Contexts:
    """The contexts of a store, as one model makes and uses them.

    Args:
        engine: runs the model.
        store: keeps the contexts.
        plan: how images are described and compressed, unless a request asks for something else.
        precision: the storage precision of keys and values.
        images: decodes request images to RGB.
        metrics: counts lookups and describe passes.
        limits: the options that a request may choose.
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
        self._builder = ContextBuilder(engine, plan, limits, precision=precision, images=images, metrics=metrics)
        self._lookups: Counter[tuple[str, bool]] = Counter()  # by tenant, and whether there was a context
        self._saved: Counter[str] = Counter()  # prompt tokens, by tenant
        self._images = ImageStore(store)
        self._keep_images = keep_images
        self.describe_queue = DescribeQueue(store, self._builder, metrics, self._images if keep_images else None)

    def check(self, options: ContextOptions) -> None:
        """Raise InvalidRequestError, naming the field, if options are beyond the limits."""
        self._builder.check(options)

    def identity(self, tenant: str, image: ImageBytes, options: ContextOptions = NO_OPTIONS) -> ContextIdentity:
        """Return the identity of an image's context; see `ContextBuilder.identity`."""
        return self._builder.identity(tenant, image, options)

    def identity_of(self, tenant: str, image_digest: str, options: ContextOptions = NO_OPTIONS) -> ContextIdentity:
        """Return the identity of the context of an image with a digest; see `ContextBuilder.identity_of`."""
        return self._builder.identity_of(tenant, image_digest, options)

    async def get(self, tenant: str, context_id: str, ttl: float | None = None) -> StoreHit:
        """Return the context with an id, after the describe pass that is making it.

        Raises:
            ContextNotFoundError: there is none, it is another tenant's or another model's, or the template renders
                something else by now, such as a new date.
            StoreUnavailableError: the store does not answer.
        """
        hit = await self._look_up(_key(tenant, context_id), ttl)
        if hit is None:
            raise ContextNotFoundError(context_id)
        return hit

    async def get_or_wait(
        self, key: ContextKey, ttl: float | None = None, *, unless: asyncio.Event | None = None, wait: bool = True
    ) -> StoreHit | None:
        """Return the context of an image, after the describe pass that is making it.

        A store that does not answer is a miss.

        Args:
            key: of the context.
            ttl: seconds for which this use renews it.
            unless: ends the wait for a describe pass once it is set.
            wait: whether to wait for a describe pass, here or elsewhere.
        """
        try:
            return await self._look_up(key, ttl, unless=unless, wait=wait)
        except StoreUnavailableError as error:
            _log.warning("a context was not looked up: %s", error)
            return None

    async def wait_for(self, job: DescribeJob, image: ImageBytes, options: ContextOptions) -> CompressedContext:
        """Return the context of a describe job, kept for as long as this request asks.

        Raises:
            InvalidImageError, PromptTooLongError: naming this request's own field, whichever request submitted the job.
            ServerError, StoreUnavailableError: see `DescribeJob.result`.
        """
        try:
            context = await job.result()
        except InvalidImageError as error:
            raise InvalidImageError(str(error), param=image.param) from error
        except PromptTooLongError as error:
            param = image.param if options.describe_prompt is None else f"{options.place}describe_prompt"
            raise PromptTooLongError(str(error), param=param) from error
        if options.ttl != job.ttl:
            try:
                await self._store.touch(context.key, ttl=options.ttl)
            except StoreUnavailableError as error:
                _log.warning("context %s was not renewed: %s", context.id[:12], error)
        return context

    async def create(self, tenant: str, image: ImageBytes, options: ContextOptions = NO_OPTIONS) -> CompressedContext:
        """Return an image's context, made now unless there is one; see `wait_for`."""
        identity = await asyncio.to_thread(self.identity, tenant, image, options)
        if hit := await self.get_or_wait(identity.key(), options.ttl, wait=False):
            return hit.context
        return await self.wait_for(self.describe_queue.submit(identity, image, ttl=options.ttl), image, options)

    async def prepare(
        self, tenant: str, image: ImageBytes, options: ContextOptions = NO_OPTIONS
    ) -> AsyncGenerator[str | Prepared]:
        """Yield the description as it is made, then the stored context.

        Raises:
            InvalidImageError, PromptTooLongError, OverloadedError, EngineError: as `wait_for` does.
            ContextNotKeptError: the store does not have the context, or takes none: then it was not made.
            StoreUnavailableError: the store does not answer.
        """
        identity = await asyncio.to_thread(self.identity, tenant, image, options)
        key, created = identity.key(), False
        if await self.get_or_wait(key, options.ttl, wait=False) is None:
            job = self.describe_queue.submit(identity, image, ttl=options.ttl, must_keep=True)
            async for text in job.text():
                yield text
            try:
                key = (await self.wait_for(job, image, options)).key
            except WritesRefusedError as error:
                raise ContextNotKeptError(
                    "The store takes no contexts now: it has no room, or is read-only."
                ) from error
            created = job.has_started
        info = await self._store.info(key)
        if info is None:
            raise ContextNotKeptError("The store does not have the context that was made: no room, or its ttl is over.")
        yield Prepared(info, created)

    async def peek(self, tenant: str, context_id: str) -> CompressedContext:
        """Return a context without counting it as use; raises ContextNotFoundError."""
        context = await self._store.peek(_key(tenant, context_id))
        if context is None or context.identity.model_fingerprint != self._fingerprint:
            raise ContextNotFoundError(context_id)
        return context

    async def info(self, tenant: str, context_id: str) -> ContextInfo:
        """Return facts of a context without using it; raises ContextNotFoundError."""
        info = await self._store.info(_key(tenant, context_id))
        if info is None or info.model_fingerprint != self._fingerprint:
            raise ContextNotFoundError(context_id)
        return info

    async def list(self, tenant: str, limit: int, after: str | None = None) -> Page:
        """List a tenant's contexts of this model; see `Store.list`."""
        return await self._store.list(tenant, limit=limit, after=after, model=self._fingerprint)

    async def delete(self, tenant: str, context_id: str) -> None:
        """Delete a context and its image; raises ContextNotFoundError."""
        key = _key(tenant, context_id)
        existed = await self._store.delete(key)
        await self._images.delete(key)  # whatever `keep_images` is now: it may have been on before
        if not existed:
            raise ContextNotFoundError(context_id)

    async def kept_image(self, key: ContextKey, ttl: float | None = None) -> ImageBytes | None:
        """Return the image of a context, if images are kept. Counts as use."""
        return await self._images.get(key, ttl) if self._keep_images else None

    async def stats(self, tenant: str) -> TenantStats:
        """Return a tenant's totals, contexts of other models in the same store included."""
        stats = await self._store.stats(tenant)
        return TenantStats(stats, self._lookups[tenant, True], self._lookups[tenant, False], self._saved[tenant])

    def count_saved(self, tenant: str, tokens: int) -> None:
        """Count prompt tokens that a tenant's answers did not have to run."""
        self._saved[tenant] += tokens

    async def close(self) -> None:
        """Cancel the describe jobs."""
        await self.describe_queue.close()

    async def _look_up(
        self, key: ContextKey, ttl: float | None, *, unless: asyncio.Event | None = None, wait: bool = True
    ) -> StoreHit | None:
        """Look a context up, again after a wait, and count one lookup."""
        with span("look up context"):
            try:
                hit = await self._get_current(key, ttl)
                if hit is None and wait and await self.describe_queue.wait(key, unless):
                    hit = await self._get_current(key, ttl)
            except StoreUnavailableError:
                self._count_lookup("unavailable", self._store.tier)
                raise
            self._lookups[key.tenant, hit is not None] += 1
            self._count_lookup("hit" if hit else "miss", hit.tier if hit else self._store.tier)
            return hit

    def _count_lookup(self, result: str, tier: str) -> None:
        self._metrics.lookups.labels(result, tier).inc()
        annotate({"lookonce.result": result, "lookonce.tier": tier})

    async def _get_current(self, key: ContextKey, ttl: float | None) -> StoreHit | None:
        """Get a context from the store, if this model would still make it."""
        hit = await self._store.get(key, ttl=ttl)
        if hit is None or not await asyncio.to_thread(self._builder.is_current, hit.context.identity):
            return None
        return hit


def _key(tenant: str, context_id: str) -> ContextKey:
    try:
        return ContextKey(tenant, context_id)
    except InvalidContextError:
        raise ContextNotFoundError(context_id) from None
