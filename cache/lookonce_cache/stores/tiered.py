"""A hot tier in this process's memory before a store that all servers share."""

import asyncio

from lookonce_cache.context import CompressedContext
from lookonce_cache.errors import StoreUnavailableError
from lookonce_cache.identity import ContextKey
from lookonce_cache.stores.base import ContextInfo, Lease, Page, State, Store, StoreHit, StoreStats
from lookonce_cache.stores.memory import MemoryStore


class TieredStore:
    """A `Store` that keeps what was used last in memory too. The shared store alone decides what there is.

    A context that is hot is served only after the shared store has been asked, by `touch`, whether it still has it: one
    that was deleted or dropped there is a miss, and no longer hot. While the shared store is unavailable, what is hot
    is served all the same. It is never wrong, since a key stands for what its context was made of; but a delete by
    another server is noticed only when the shared store is back.

    Concurrent gets of one context that is not hot are one get of the shared store. A put or delete of this process
    parts them: a get that begins after it does not see what was there before. One by another server does not, so a get
    may see what was there when the get it joined began.

    Each tier tells its own observer of its own calls: gets of the memory tier that miss went on to the shared one.

    Args:
        hot: the memory tier. Its TTL should be the shared store's.
        shared: the store behind it.
    """

    def __init__(self, hot: MemoryStore, shared: Store) -> None:
        self.tier = shared.tier
        self.records, self.images = shared.records, shared.images
        self._hot = hot
        self._shared = shared
        self._loads: dict[ContextKey, asyncio.Task[StoreHit | None]] = {}

    async def get(self, key: ContextKey, *, ttl: float | None = None) -> StoreHit | None:
        """See `Store.get`."""
        found = await self._hot.get(key, ttl=ttl)
        if found is None:
            return await self._load(key, ttl)
        return found if await self._is_still_kept(key, ttl) else None

    async def peek(self, key: ContextKey) -> CompressedContext | None:
        """See `Store.peek`. Asks the shared store, and leaves the hot tier as it is."""
        return await self._shared.peek(key)

    async def put(self, context: CompressedContext, lease: Lease | None = None, *, ttl: float | None = None) -> None:
        """See `Store.put`.

        Raises:
            StoreUnavailableError: the context is hot and nowhere else, so it lasts until the shared store is back.
        """
        try:
            await self._shared.put(context, lease, ttl=ttl)
        except StoreUnavailableError:
            await self._keep_hot(context, ttl)
            raise
        await self._keep_hot(context, ttl)

    async def touch(self, key: ContextKey, *, ttl: float | None = None) -> bool:
        """See `Store.touch`."""
        is_hot = await self._hot.touch(key, ttl=ttl)
        return await (self._is_still_kept(key, ttl) if is_hot else self._shared.touch(key, ttl=ttl))

    async def delete(self, key: ContextKey) -> bool:
        """See `Store.delete`. The context is no longer hot, even if the shared store could not be reached."""
        try:
            return await self._shared.delete(key)
        finally:
            await self._drop_hot(key)

    async def info(self, key: ContextKey) -> ContextInfo | None:
        """See `Store.info`."""
        return await self._shared.info(key)

    async def list(self, tenant: str, *, limit: int = 100, after: str | None = None, model: str | None = None) -> Page:
        """See `Store.list`."""
        return await self._shared.list(tenant, limit=limit, after=after, model=model)

    async def stats(self, tenant: str) -> StoreStats:
        """See `Store.stats`."""
        return await self._shared.stats(tenant)

    async def lease(self, key: ContextKey, seconds: float) -> Lease | None:
        """See `Store.lease`."""
        return await self._shared.lease(key, seconds)

    async def renew(self, lease: Lease, seconds: float) -> bool:
        """See `Store.renew`."""
        return await self._shared.renew(lease, seconds)

    async def release(self, lease: Lease) -> None:
        """See `Store.release`."""
        await self._shared.release(lease)

    async def state(self, key: ContextKey) -> State:
        """See `Store.state`."""
        return await self._shared.state(key)

    async def ping(self) -> None:
        """See `Store.ping`."""
        await self._shared.ping()

    async def close(self) -> None:
        """See `Store.close`."""
        loads = list(self._loads.values())
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        await self._hot.close()
        await self._shared.close()

    async def _is_still_kept(self, key: ContextKey, ttl: float | None) -> bool:
        """Whether the shared store has a context that is hot, as far as can be told. Counts as use."""
        try:
            is_kept = await self._shared.touch(key, ttl=ttl)
        except StoreUnavailableError:
            return True
        if not is_kept:
            await self._drop_hot(key)
        return is_kept

    async def _load(self, key: ContextKey, ttl: float | None) -> StoreHit | None:
        """From the shared store. A caller that is cancelled leaves the load to the others, and to the hot tier."""
        if key not in self._loads:
            self._loads[key] = asyncio.create_task(self._fill(key, ttl))
        return await asyncio.shield(self._loads[key])

    async def _fill(self, key: ContextKey, ttl: float | None) -> StoreHit | None:
        load = asyncio.current_task()
        try:
            found = await self._shared.get(key, ttl=ttl)
            # Unless the context was put or deleted here meanwhile: what was read may be older.
            if found is not None and self._loads.get(key) is load:
                await self._keep_hot(found.context, ttl)
            return found
        finally:
            if self._loads.get(key) is load:
                del self._loads[key]

    async def _keep_hot(self, context: CompressedContext, ttl: float | None) -> None:
        """What is larger than the hot tier is not hot, and neither is what it replaced."""
        if context.nbytes > self._hot.max_bytes:
            await self._drop_hot(context.key)
        else:
            self._loads.pop(context.key, None)
            await self._hot.put(context, ttl=ttl)

    async def _drop_hot(self, key: ContextKey) -> None:
        self._loads.pop(key, None)
        await self._hot.delete(key)
