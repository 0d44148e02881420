"""Store contexts in Redis, one key and one value each, shared by all servers."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from redis.exceptions import ResponseError

from lookonce_cache.context import CompressedContext
from lookonce_cache.errors import ContextFormatError, ContextTooLargeError, LeaseLostError, StoreUnavailableError
from lookonce_cache.format.checksum import DIGEST_BYTES
from lookonce_cache.format.wire import decode, encode
from lookonce_cache.identity import ContextKey, check_tenant
from lookonce_cache.stores.base import MAX_LISTED, ContextInfo, Lease, NodeUsage, Page, State, StoreHit, StoreStats
from lookonce_cache.stores.observer import StoreObserver, observed
from lookonce_cache.stores.redis.blobs import RedisBlobStore
from lookonce_cache.stores.redis.cluster import Cluster
from lookonce_cache.stores.redis.index import Member, RedisIndex, last_lease_key, lease_key, value_key
from lookonce_cache.stores.redis.infos import Damage, read_infos
from lookonce_cache.stores.redis.node import Command
from lookonce_cache.stores.redis.options import parse_redis_url
from lookonce_cache.stores.redis.scripts import PUT_UNDER_LEASE, RELEASE_LEASE, RENEW_LEASE, TAKE_LEASE, Script, run
from lookonce_cache.stores.redis.topology import (
    Servers,
    SingleNode,
    WrongTypeError,
    check_reply,
    check_write,
    read_and_renew,
)

INDEX_SECONDS = 1.0  # longest time that a put spends on the index
HEADS_PER_BATCH = 64  # read in one round trip, 64 KiB each at most
SIZES_PER_BATCH = 1000  # read in one round trip
GRACE_SECONDS = 3600.0  # for which an expired lease still allows a put, unless the next one is taken
UNCLAIMED_SECONDS = 60.0  # after which Redis drops a value that was sent, but not put under its lease


class RedisStore:
    """Keep contexts in Redis 6.2 or newer: one server, or a cluster.

    A context is one string under one key, and is loaded by one command. A value that was evicted, or lost in a failover
    before it was replicated, is a miss like any other. Reads go to primaries only.

    Values are always encoded and decoded in a worker thread: they are megabytes, and the event loop serves every other
    request meanwhile.

    Args:
        url: redis://, rediss://, unix://, redis+cluster:// or rediss+cluster://; see `open_store`.
        ttl: seconds for which a context is kept after its last use; None to leave eviction to Redis.
        observer: receives every call.

    Raises:
        StoreConfigError: the URL is wrong.
    """

    tier = "redis"

    def __init__(self, url: str, *, ttl: float | None = None, observer: StoreObserver | None = None) -> None:
        options = parse_redis_url(url)
        self.observer = observer or StoreObserver()
        self._ttl = ttl
        self._max_bytes = options.max_context_bytes
        self._servers: Servers = (Cluster if options.cluster else SingleNode)(options, self.observer)
        self.records = RedisBlobStore(self._servers, ttl=ttl, observer=self.observer)
        self.images = self.records  # one budget for all, the `maxmemory` of Redis

    @observed
    async def get(self, key: ContextKey, *, ttl: float | None = None) -> StoreHit | None:
        """Get as `Store.get` says."""
        context = await self._read(key, self._expiry(ttl))
        return None if context is None else StoreHit(context, self.tier)

    @observed
    async def peek(self, key: ContextKey) -> CompressedContext | None:
        """Peek as `Store.peek` says."""
        return await self._read(key, None)

    @observed
    async def put(self, context: CompressedContext, lease: Lease | None = None, *, ttl: float | None = None) -> None:
        """Put as `Store.put` says.

        Raises:
            ContextTooLargeError: the encoded context is larger than `max_context_bytes`.
        """
        value = await asyncio.to_thread(encode, context)
        if len(value) > self._max_bytes:
            raise ContextTooLargeError(f"a context of {len(value)} bytes exceeds max_context_bytes={self._max_bytes}")
        expiry = self._expiry(ttl)
        if lease is None:
            px = () if expiry is None else ("PX", expiry)
            check_write(self._servers, *await self._servers.send(("SET", value_key(context.key), value, *px)))
        elif lease.key != context.key or not await self._put_under(lease, context.key, value, expiry):
            raise LeaseLostError(f"the lease on context {context.id} does not hold any more")
        self.observer.transferred(self.tier, "written", len(value))
        await self._update_index(context.key, "add")

    @observed
    async def touch(self, key: ContextKey, *, ttl: float | None = None) -> bool:
        """Touch as `Store.touch` says."""
        exists, expiry = ("EXISTS", value_key(key)), self._expiry(ttl)
        command = exists if expiry is None else ("PEXPIRE", value_key(key), expiry)
        return bool(await read_and_renew(self._servers, self.observer, command, exists))

    @observed
    async def delete(self, key: ContextKey) -> bool:
        """Delete as `Store.delete` says."""
        # The index first, or a put at the same moment could be stored and not listed. Then the lease, or a put under it
        # could follow the deletion of the value.
        await self._update_index(key, "drop")
        replies = await self._servers.send(("UNLINK", lease_key(key), last_lease_key(key)), ("UNLINK", value_key(key)))
        _, unlinked = (check_write(self._servers, reply) for reply in replies)
        return bool(unlinked)

    @observed
    async def info(self, key: ContextKey) -> ContextInfo | None:
        """Describe a context from the head of its value; see `Store.info`."""
        (info,) = await self._infos([key])
        return info if isinstance(info, ContextInfo) else None

    @observed
    async def list(self, tenant: str, *, limit: int = 100, after: str | None = None, model: str | None = None) -> Page:
        """List contexts from the heads of their values; see `Store.list`."""
        limit = max(0, min(limit, MAX_LISTED))
        shown: list[tuple[Member, ContextInfo]] = []
        index = self._index(check_tenant(tenant))
        async with aclosing(index.newest_first(after, HEADS_PER_BATCH)) as batches:
            async for members in batches:
                infos = await self._infos([member.key for member in members])
                read = list(zip(members, infos, strict=True))
                await index.drop_dead([member for member, info in read if info is None])
                shown += [
                    (member, info)
                    for member, info in read
                    if isinstance(info, ContextInfo) and model in (None, info.model_fingerprint)
                ]
                if len(shown) > limit:
                    break
        more = str(shown[limit - 1][0].cursor) if len(shown) > limit > 0 else None
        return Page(tuple(info for _, info in shown[:limit]), more)

    @observed
    async def stats(self, tenant: str) -> StoreStats:
        """Count the contexts that `list` shows, and damaged ones; see `Store.stats`."""
        contexts = nbytes = 0
        oldest = newest = None
        dead: list[Member] = []
        index = self._index(check_tenant(tenant))
        async for members in index.newest_first(None, SIZES_PER_BATCH):
            sizes = await self._servers.send(*(("STRLEN", value_key(member.key)) for member in members))
            for member, size in zip(members, sizes, strict=True):
                if not size:
                    dead.append(member)
                elif not isinstance(size, ResponseError):
                    contexts, nbytes = contexts + 1, nbytes + size
                    oldest, newest = member.score, newest or member.score
        await index.drop_dead(dead)
        return StoreStats(contexts, nbytes, oldest, newest)

    @observed
    async def lease(self, key: ContextKey, seconds: float) -> Lease | None:
        """Lease as `Store.lease` says."""
        lease = Lease(key, secrets.token_hex(16))
        keys = [lease_key(key), last_lease_key(key)]
        taken = await self._run(TAKE_LEASE, keys, lease.token, _ms(seconds), _ms(GRACE_SECONDS))
        if taken == 2:
            self.observer.damaged(self.tier, "lease")
        return lease if taken else None

    @observed
    async def renew(self, lease: Lease, seconds: float) -> bool:
        """Renew as `Store.renew` says."""
        return bool(await self._run(RENEW_LEASE, [lease_key(lease.key)], lease.token, _ms(seconds)))

    @observed
    async def release(self, lease: Lease) -> None:
        """Release as `Store.release` says."""
        await self._run(RELEASE_LEASE, [lease_key(lease.key), last_lease_key(lease.key)], lease.token)

    @observed
    async def state(self, key: ContextKey) -> State:
        """Tell as `Store.state` says."""
        replies = await self._servers.send(("EXISTS", value_key(key)), ("PTTL", lease_key(key)))
        is_kept, lease_ms = (check_reply(self._servers, reply) for reply in replies)
        return "kept" if is_kept else "leased" if lease_ms >= 0 else "absent"  # a key without expiry is no lease

    async def usage(self) -> Sequence[NodeUsage]:
        """Tell as `Store.usage` says."""
        return await self._servers.usage()

    @observed
    async def ping(self) -> None:
        """Ping every server, also one with an open breaker; see `Store.ping`."""
        await self._servers.ping()

    async def close(self) -> None:
        """Close as `Store.close` says."""
        await self._servers.close()

    def _expiry(self, ttl: float | None) -> int | None:
        """Return the TTL of a use in milliseconds; None to leave eviction to Redis."""
        seconds = self._ttl if ttl is None else ttl
        return None if seconds is None else _ms(seconds)

    async def _read(self, key: ContextKey, expiry: int | None) -> CompressedContext | None:
        """Load a context, and set its expiry in milliseconds unless it is None."""
        plain = ("GET", value_key(key))
        command = plain if expiry is None else ("GETEX", value_key(key), "PX", expiry)
        try:
            value: bytes | None = await read_and_renew(self._servers, self.observer, command, plain)
            if value is None:
                return None
            context = await asyncio.to_thread(decode, value, key)
        except WrongTypeError:
            self.observer.damaged(self.tier, "foreign")
        except ContextFormatError as error:
            self.observer.damaged(self.tier, error.reason)
        else:
            self.observer.transferred(self.tier, "read", len(value))
            return context
        return None

    async def _put_under(self, lease: Lease, key: ContextKey, value: bytes, expiry: int | None) -> bool:
        new = f"{lease_key(key)}:{lease.token}"
        ttl = "" if expiry is None else expiry
        set_value: Command = ("SET", new, value, "PX", round(1000 * UNCLAIMED_SECONDS))
        keys = [value_key(key), lease_key(key), last_lease_key(key), new]
        arguments = [lease.token, ttl, value[-DIGEST_BYTES:]]
        return bool(
            check_write(self._servers, await run(self._servers, PUT_UNDER_LEASE, keys, arguments, first=set_value))
        )

    async def _update_index(self, key: ContextKey, change: str) -> None:
        index = self._index(key.tenant)
        try:
            async with asyncio.timeout(INDEX_SECONDS):
                await (index.add(key) if change == "add" else index.drop(key))
        except (StoreUnavailableError, TimeoutError):
            pass  # the value is stored; only lists miss the context until it is put again

    async def _infos(self, keys: Sequence[ContextKey]) -> Sequence[ContextInfo | Damage | None]:
        infos = await read_infos(self._servers, keys)
        for info in infos:
            if isinstance(info, Damage):
                self.observer.damaged(self.tier, info.reason)
        return infos

    async def _run(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        return check_write(self._servers, await run(self._servers, script, keys, arguments))

    def _index(self, tenant: str) -> RedisIndex:
        return RedisIndex(self._servers, tenant, self.observer)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
