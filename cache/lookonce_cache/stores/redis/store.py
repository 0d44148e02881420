"""Contexts in Redis: shared by all servers, one key and one value each."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from redis.exceptions import ResponseError

from lookonce_cache.context import CompressedContext
from lookonce_cache.errors import ContextFormatError, ContextTooLargeError, LeaseLostError, StoreUnavailableError
from lookonce_cache.format.header import DIGEST_BYTES
from lookonce_cache.format.wire import decode, encode
from lookonce_cache.identity import ContextKey, check_tenant
from lookonce_cache.stores.base import MAX_LISTED, ContextInfo, Lease, Page, State, StoreHit, StoreStats
from lookonce_cache.stores.observer import StoreObserver, observed
from lookonce_cache.stores.redis.blobs import RedisBlobStore
from lookonce_cache.stores.redis.cluster import Cluster
from lookonce_cache.stores.redis.index import Member, RedisIndex, last_lease_key, lease_key, value_key
from lookonce_cache.stores.redis.infos import Damage, read_infos
from lookonce_cache.stores.redis.node import Command
from lookonce_cache.stores.redis.options import parse_redis_url
from lookonce_cache.stores.redis.scripts import PUT_UNDER_LEASE, RELEASE_LEASE, RENEW_LEASE, TAKE_LEASE, Script, run
from lookonce_cache.stores.redis.topology import Servers, SingleNode, WrongTypeError, checked, write_or_read, written

INDEX_SECONDS = 1.0  # that a put may spend on the index
HEADS = 64  # read in one round trip, 64 KiB each at most
SIZES = 1000  # read in one round trip
REMEMBERED_SECONDS = 3600.0  # that a lease is good for after it has expired, as long as nobody takes the next one
FORGOTTEN_SECONDS = 60.0  # after which a value is dropped that came, but whose lease could not be looked at


class RedisStore:
    """A `Store` in Redis 6.2 or newer: one server, or a cluster.

    A context is one string under one key, and comes with one command. A value whose key was evicted, or whose server
    failed over before it was replicated, is a miss like any other. Reads go to primaries only.

    Values are encoded and decoded in a worker thread, always: they are megabytes, and the event loop serves every other
    request meanwhile.

    Args:
        url: redis://, rediss://, unix://, redis+cluster:// or rediss+cluster://; see `open_store`.
        ttl: seconds a context lives after its last use, None to leave eviction to Redis.
        observer: told of every call.

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
        self.images = self.records  # Redis itself decides what goes when memory runs out

    @observed
    async def get(self, key: ContextKey, *, ttl: float | None = None) -> StoreHit | None:
        """See `Store.get`."""
        context = await self._read(key, self._expiry(ttl))
        return None if context is None else StoreHit(context, self.tier)

    @observed
    async def peek(self, key: ContextKey) -> CompressedContext | None:
        """See `Store.peek`."""
        return await self._read(key, None)

    @observed
    async def put(self, context: CompressedContext, lease: Lease | None = None, *, ttl: float | None = None) -> None:
        """See `Store.put`.

        Raises:
            ContextTooLargeError: the encoded context is larger than the store's limit.
        """
        value = await asyncio.to_thread(encode, context)
        if len(value) > self._max_bytes:
            raise ContextTooLargeError(f"a context of {len(value)} bytes exceeds max_context_bytes={self._max_bytes}")
        expiry = self._expiry(ttl)
        if lease is None:
            expiring = () if expiry is None else ("PX", expiry)
            written(self._servers, *await self._servers.send(("SET", value_key(context.key), value, *expiring)))
        elif lease.key != context.key or not await self._put_under(lease, context.key, value, expiry):
            raise LeaseLostError(f"the lease on context {context.id} does not hold any more")
        self.observer.transferred(self.tier, "written", len(value))
        await self._update_index(context.key, "add")

    @observed
    async def touch(self, key: ContextKey, *, ttl: float | None = None) -> bool:
        """See `Store.touch`."""
        exists, expiry = ("EXISTS", value_key(key)), self._expiry(ttl)
        command = exists if expiry is None else ("PEXPIRE", value_key(key), expiry)
        return bool(await write_or_read(self._servers, self.observer, command, exists))

    @observed
    async def delete(self, key: ContextKey) -> bool:
        """See `Store.delete`."""
        # The index first, or a put at the same moment could end up kept and not listed. Then the lease, or a put under
        # it could come after the value was deleted.
        await self._update_index(key, "drop")
        replies = await self._servers.send(("UNLINK", lease_key(key), last_lease_key(key)), ("UNLINK", value_key(key)))
        _, unlinked = (written(self._servers, reply) for reply in replies)
        return bool(unlinked)

    @observed
    async def info(self, key: ContextKey) -> ContextInfo | None:
        """See `Store.info`. Reads the head of the value only."""
        (info,) = await self._infos([key])
        return info if isinstance(info, ContextInfo) else None

    @observed
    async def list(self, tenant: str, *, limit: int = 100, after: str | None = None, model: str | None = None) -> Page:
        """See `Store.list`. Those put last come first; reads the heads of the values only."""
        limit = max(0, min(limit, MAX_LISTED))
        shown: list[tuple[Member, ContextInfo]] = []
        index = self._index(check_tenant(tenant))
        async with aclosing(index.newest_first(after, HEADS)) as batches:
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
        """See `Store.stats`. Counts the contexts that `list` shows, and damaged ones."""
        contexts = nbytes = 0
        oldest = newest = None
        dead: list[Member] = []
        index = self._index(check_tenant(tenant))
        async for members in index.newest_first(None, SIZES):
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
        """See `Store.lease`."""
        lease = Lease(key, secrets.token_hex(16))
        keys = [lease_key(key), last_lease_key(key)]
        taken = await self._run(TAKE_LEASE, keys, lease.token, _ms(seconds), _ms(REMEMBERED_SECONDS))
        if taken == 2:
            self.observer.damaged(self.tier, "lease")
        return lease if taken else None

    @observed
    async def renew(self, lease: Lease, seconds: float) -> bool:
        """See `Store.renew`."""
        return bool(await self._run(RENEW_LEASE, [lease_key(lease.key)], lease.token, _ms(seconds)))

    @observed
    async def release(self, lease: Lease) -> None:
        """See `Store.release`."""
        await self._run(RELEASE_LEASE, [lease_key(lease.key), last_lease_key(lease.key)], lease.token)

    @observed
    async def state(self, key: ContextKey) -> State:
        """See `Store.state`."""
        replies = await self._servers.send(("EXISTS", value_key(key)), ("PTTL", lease_key(key)))
        kept, lease_ms = (checked(self._servers, reply) for reply in replies)
        return "kept" if kept else "leased" if lease_ms >= 0 else "absent"  # what never ends is no lease

    @observed
    async def ping(self) -> None:
        """See `Store.ping`. Asks every server, also one that was given up."""
        await self._servers.ping()

    async def close(self) -> None:
        """See `Store.close`."""
        await self._servers.close()

    def _expiry(self, ttl: float | None) -> int | None:
        """Milliseconds a use renews a context for; None to leave eviction to Redis."""
        seconds = self._ttl if ttl is None else ttl
        return None if seconds is None else _ms(seconds)

    async def _read(self, key: ContextKey, expiry: int | None) -> CompressedContext | None:
        """The context, which expires in so many milliseconds then, or when it would have."""
        plain = ("GET", value_key(key))
        command = plain if expiry is None else ("GETEX", value_key(key), "PX", expiry)
        try:
            value: bytes | None = await write_or_read(self._servers, self.observer, command, plain)
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
        setting: Command = ("SET", new, value, "PX", round(1000 * FORGOTTEN_SECONDS))
        keys = [value_key(key), lease_key(key), last_lease_key(key), new]
        arguments = [lease.token, ttl, value[-DIGEST_BYTES:]]
        return bool(written(self._servers, await run(self._servers, PUT_UNDER_LEASE, keys, arguments, first=setting)))

    async def _update_index(self, key: ContextKey, change: str) -> None:
        index = self._index(key.tenant)
        try:
            async with asyncio.timeout(INDEX_SECONDS):
                await (index.add(key) if change == "add" else index.drop(key))
        except (StoreUnavailableError, TimeoutError):
            pass  # the value is what counts; the context is missing from lists until it is put again

    async def _infos(self, keys: Sequence[ContextKey]) -> Sequence[ContextInfo | Damage | None]:
        infos = await read_infos(self._servers, keys)
        for info in infos:
            if isinstance(info, Damage):
                self.observer.damaged(self.tier, info.reason)
        return infos

    async def _run(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        return written(self._servers, await run(self._servers, script, keys, arguments))

    def _index(self, tenant: str) -> RedisIndex:
        return RedisIndex(self._servers, tenant, self.observer)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
