"""Put a hot tier in this process's memory in front of a shared store."""

import asyncio
from collections.abc import Sequence

from lookonce_cache.context import CompressedContext
from lookonce_cache.errors import StoreUnavailableError
from lookonce_cache.identity import ContextKey
from lookonce_cache.stores.base import ContextInfo, Lease, NodeUsage, Page, State, Store, StoreHit, StoreStats
from lookonce_cache.stores.memory import MemoryStore


class TieredStore:
    """Keep recently used contexts in memory too.

    The shared store alone decides which exist.

    A hot context is served only after `touch` has asked the shared store whether it still has it: one that was deleted
    or dropped there is a miss, and no longer hot. While the shared store is unavailable, hot contexts are served all
    the same. They are never wrong, since a key covers everything that a context depends on; but a delete by another
    server is noticed only when the shared store is back.

    Concurrent gets of one context that is not hot share one get of the shared store. A put or delete of this process
    separates them: a get that begins after it does not return the context from before. A put or delete by another
    server does not, so a get may return the context that was there when the shared get began.

    Each tier reports its own calls to its own observer: a get that misses the memory tier goes on to the shared one.

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
        """Get as `Store.get` says."""
        hit = await self._hot.get(key, ttl=ttl)
        if hit is None:
            return await self._load(key, ttl)
        return hit if await self._is_stored(key, ttl) else None

    async def peek(self, key: ContextKey) -> CompressedContext | None:
        """Peek into the shared store; the hot tier stays as it is."""
        return await self._shared.peek(key)

    async def put(self, context: CompressedContext, lease: Lease | None = None, *, ttl: float | None = None) -> None:
        """Put as `Store.put` says.

        Raises:
            StoreUnavailableError: the context is only in the hot tier, until the shared store is back.
        """
        try:
            await self._shared.put(context, lease, ttl=ttl)
        except StoreUnavailableError:
            await self._keep_hot(context, ttl)
            raise
        await self._keep_hot(context, ttl)

    async def touch(self, key: ContextKey, *, ttl: float | None = None) -> bool:
        """Touch as `Store.touch` says."""
        is_hot = await self._hot.touch(key, ttl=ttl)
        return await (self._is_stored(key, ttl) if is_hot else self._shared.touch(key, ttl=ttl))

    async def delete(self, key: ContextKey) -> bool:
        """Delete from both tiers, the hot one even if the shared store is unavailable."""
        try:
            return await self._shared.delete(key)
        finally:
            await self._drop_hot(key)

    async def info(self, key: ContextKey) -> ContextInfo | None:
        """Describe as `Store.info` says."""
        return await self._shared.info(key)

    async def list(self, tenant: str, *, limit: int = 100, after: str | None = None, model: str | None = None) -> Page:
        """List as `Store.list` says."""
        return await self._shared.list(tenant, limit=limit, after=after, model=model)

    async def stats(self, tenant: str) -> StoreStats:
        """Count as `Store.stats` says."""
        return await self._shared.stats(tenant)

    async def lease(self, key: ContextKey, seconds: float) -> Lease | None:
        """Lease as `Store.lease` says."""
        return await self._shared.lease(key, seconds)

    async def renew(self, lease: Lease, seconds: float) -> bool:
        """Renew as `Store.renew` says."""
        return await self._shared.renew(lease, seconds)

    async def release(self, lease: Lease) -> None:
        """Release as `Store.release` says."""
        await self._shared.release(lease)

    async def state(self, key: ContextKey) -> State:
        """Tell as `Store.state` says."""
        return await self._shared.state(key)

    async def usage(self) -> Sequence[NodeUsage]:
        """Tell as `Store.usage` says, of both tiers."""
        return [*await self._hot.usage(), *await self._shared.usage()]

    async def ping(self) -> None:
        """Ping as `Store.ping` says."""
        await self._shared.ping()

    async def close(self) -> None:
        """Close as `Store.close` says."""
        loads = list(self._loads.values())
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        await self._hot.close()
        await self._shared.close()

    async def _is_stored(self, key: ContextKey, ttl: float | None) -> bool:
        """Tell whether the shared store still has a hot context, or is unavailable."""
        try:
            is_stored = await self._shared.touch(key, ttl=ttl)
        except StoreUnavailableError:
            return True
        if not is_stored:
            await self._drop_hot(key)
        return is_stored

    async def _load(self, key: ContextKey, ttl: float | None) -> StoreHit | None:
        """Load from the shared store; the load outlives a caller that is cancelled."""
        if key not in self._loads:
            self._loads[key] = asyncio.create_task(self._fill(key, ttl))
        return await asyncio.shield(self._loads[key])

    async def _fill(self, key: ContextKey, ttl: float | None) -> StoreHit | None:
        load = asyncio.current_task()
        try:
            hit = await self._shared.get(key, ttl=ttl)
            # Unless the context was put or deleted here meanwhile: the one that was read may be older.
            if hit is not None and self._loads.get(key) is load:
                await self._keep_hot(hit.context, ttl)
            return hit
        finally:
            if self._loads.get(key) is load:
                del self._loads[key]

    async def _keep_hot(self, context: CompressedContext, ttl: float | None) -> None:
        """Put a context into the hot tier.

        One that is too large only drops its predecessor.
        """
        if context.nbytes > self._hot.max_bytes:
            await self._drop_hot(context.key)
        else:
            self._loads.pop(context.key, None)
            await self._hot.put(context, ttl=ttl)

    async def _drop_hot(self, key: ContextKey) -> None:
        self._loads.pop(key, None)
        await self._hot.delete(key)
