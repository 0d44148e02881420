"""The contexts of images: found, made once, shown and forgotten.

An image is recognised by its content. A client-chosen id is never a key: `lookonce:<id>` is the content key that the
server gave out, and a context that another tenant owns, or another model made, does not exist here.
"""

import asyncio
import logging
import time
from collections import Counter
from typing import NamedTuple

from lookonce_cache import (
    CompressedContext,
    ContextIdentity,
    ContextInfo,
    ContextKey,
    Found,
    InvalidContextError,
    Page,
    Store,
    StoreStats,
    StoreUnavailableError,
    digest,
    stored,
)
from lookonce_server.engines.base import DescribePlan, Description, Engine, ModelFacts
from lookonce_server.errors import ContextNotFoundError, ContextNotKeptError
from lookonce_server.images import ImageBytes, Images
from lookonce_server.making import Maker
from lookonce_server.metrics import Metrics

_log = logging.getLogger(__name__)


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
        plan: how images are described and compressed.
        precision: in which keys and values are stored.
        images: decodes them.
        metrics: what is counted.
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
    ) -> None:
        self._engine = engine
        self._store = store
        self._plan = plan
        self._precision = precision
        self._images = images
        self._metrics = metrics
        self._lookups: Counter[tuple[str, bool]] = Counter()  # by tenant, and whether there was a context
        self.maker = Maker(store, metrics)

    def identity(self, tenant: str, data: bytes) -> ContextIdentity:
        """What the context of an image is a function of, under this model and plan."""
        return context_identity(tenant, data, self._engine.facts, self._plan, self._precision)

    async def find(self, key: ContextKey) -> Found | None:
        """The context of an image whose pixels are at hand: a store that fails is a miss."""
        try:
            return await self._look_up(key)
        except StoreUnavailableError as error:
            _log.warning("%s", error)
            return None

    async def find_or_wait(self, key: ContextKey) -> Found | None:
        """The context, after a describe pass that is under way, here or elsewhere."""
        found = await self.find(key)
        if found is None and await self.maker.until_made(key):
            found = await self.find(key)
        return found

    async def get(self, tenant: str, context_id: str) -> Found:
        """The context with that id, after a describe pass that is making it.

        Raises:
            ContextNotFoundError: there is none, it is another tenant's, or another model made it.
            StoreUnavailableError: the store does not answer.
        """
        key = _key(tenant, context_id)
        found = await self._look_up(key)
        if found is None and await self.maker.until_made(key):
            found = await self._look_up(key)
        if found is None:
            raise ContextNotFoundError(context_id)
        return found

    def make(
        self, identity: ContextIdentity, image: ImageBytes, *, after: asyncio.Event | None = None
    ) -> asyncio.Task[CompressedContext]:
        """The one task that describes an image; see `Maker.make`.

        Its errors are InvalidImageError, OverloadedError and EngineError.
        """
        return self.maker.make(identity.key(), lambda: self._describe(identity, image), after=after)

    async def create(self, tenant: str, image: ImageBytes) -> CompressedContext:
        """The context of an image, made now unless there is one.

        Raises:
            InvalidImageError, OverloadedError, EngineError: as the describe pass does.
        """
        identity = await asyncio.to_thread(self.identity, tenant, image.data)
        if found := await self.find(identity.key()):
            return found.context
        # Shielded: others may wait for the same pass, and the next question wants its context.
        return await asyncio.shield(self.make(identity, image))

    async def prepare(self, tenant: str, image: ImageBytes) -> ContextInfo:
        """See that the image's context is in the store, and tell about it.

        Raises:
            InvalidImageError, OverloadedError, EngineError: as the describe pass does.
            ContextNotKeptError: the context was made, but the store does not have it.
            StoreUnavailableError: the store does not answer.
        """
        context = await self.create(tenant, image)
        info = await self._store.info(context.key)
        if info is None:
            raise ContextNotKeptError("The context was made, but the store did not keep it: it has no room for it.")
        return info

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
        """Forget a context; raises ContextNotFoundError where there is none."""
        if not await self._store.delete(_key(tenant, context_id)):
            raise ContextNotFoundError(context_id)

    async def stats(self, tenant: str) -> TenantStats:
        """What a tenant's contexts amount to, those of other models with the same store included."""
        stored_ = await self._store.stats(tenant)
        return TenantStats(stored_, self._lookups[tenant, True], self._lookups[tenant, False])

    async def close(self) -> None:
        """Abandon the describe passes that run behind."""
        await self.maker.close()

    async def _look_up(self, key: ContextKey) -> Found | None:
        try:
            found = await self._store.get(key)
        except StoreUnavailableError:
            self._metrics.lookups.labels("unavailable", self._store.tier).inc()
            raise
        if found is not None and found.context.identity.model_fingerprint != self._engine.facts.fingerprint:
            found = None
        self._lookups[key.tenant, found is not None] += 1
        self._metrics.lookups.labels("hit" if found else "miss", found.tier if found else self._store.tier).inc()
        return found

    async def _describe(self, identity: ContextIdentity, image: ImageBytes) -> CompressedContext:
        pixels = await self._images.decode(image)
        found = await self._engine.describe(pixels, self._plan, identity.tenant)
        return await asyncio.to_thread(context_of, identity, found)

    def _is_ours(self, info: ContextInfo) -> bool:
        return info.model_fingerprint == self._engine.facts.fingerprint


def context_identity(
    tenant: str, data: bytes, facts: ModelFacts, plan: DescribePlan, precision: str
) -> ContextIdentity:
    """What the context of an image is a function of.

    Args:
        tenant: whose it is.
        data: the image's bytes.
        facts: of the model that describes it.
        plan: how it is described and compressed.
        precision: in which keys and values are stored.
    """
    return ContextIdentity(
        tenant=tenant,
        model_fingerprint=facts.fingerprint,
        image_digest=digest(data),
        describe_prompt=plan.prompt,
        template_digest=facts.template_digest,
        retention=float(plan.retention),
        selection=f"{plan.selection}/{plan.rows}/{plan.max_tokens}",
        window=plan.window,
        precision=precision,
    )


def context_of(identity: ContextIdentity, found: Description) -> CompressedContext:
    """The context that a describe pass makes, its keys and values in the precision that the identity names."""
    return CompressedContext(
        identity=identity,
        keys=stored(found.keys, "keys", identity.precision),
        values=stored(found.values, "values", identity.precision),
        shared_tokens=found.shared_tokens,
        moved_by=found.moved_by,
        full_tokens=found.prompt_tokens,
        kept_indices=found.kept,
        scores=found.scores,
        grid=found.grid,
        description=found.text,
        created_at=time.time(),
    )


def _key(tenant: str, context_id: str) -> ContextKey:
    try:
        return ContextKey(tenant, context_id)
    except InvalidContextError:
        raise ContextNotFoundError(context_id) from None
