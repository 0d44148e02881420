"""Contexts in Redis: shared by all servers, one key and one value each."""

import asyncio
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from lookonce_cache.context import CompressedContext
from lookonce_cache.errors import ContextFormatError, ContextTooLargeError, StoreConfigError, StoreUnavailableError
from lookonce_cache.header import MAX_HEAD_BYTES, Head, decode_head
from lookonce_cache.store import MAX_LISTED, ContextInfo, OnDamaged, ignore_damage
from lookonce_cache.wire import decode, encode

KEY_PREFIX = b"lookonce:context:"
MAX_VALUE_BYTES = 512 * 1024**2  # the largest string Redis takes (proto-max-bulk-len)
LIST_BATCH = 64  # heads read in one round trip, 64 KiB each at most


class RedisStore:
    """A `Store` on one Redis server, 6.2 or newer (GETEX).

    Values are encoded and decoded in a worker thread, always: they are megabytes, and the event loop serves every other
    request meanwhile. A dropped connection is tried again, three times within a second; a timeout is not, since the
    caller has a better use for that time: it can answer by the full pass.

    Args:
        url: redis://, rediss:// or unix://, as redis-py reads them. Its query may set the timeouts below.
        ttl: seconds a context lives after its last use, None to leave eviction to Redis.
        on_damaged: called with the reason for every damaged value met.

    Raises:
        StoreConfigError: the URL cannot be parsed.
    """

    tier = "redis"

    def __init__(self, url: str, *, ttl: float | None = None, on_damaged: OnDamaged = ignore_damage) -> None:
        self._ttl_ms = None if ttl is None else max(1, round(ttl * 1000))
        self._on_damaged = on_damaged
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=32,
                timeout=5.0,  # seconds to wait for a free connection
                socket_connect_timeout=2.0,
                socket_timeout=10.0,  # for a whole reply, tens of megabytes
                health_check_interval=30,
                retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3, (RedisConnectionError,)),
            )
        except ValueError:  # its text may quote a password with a bad character in it
            raise StoreConfigError(
                "store URL cannot be parsed; accepted: redis://[user:password@]host[:port][/db], rediss://... and "
                "unix://path, with special characters in user and password percent-encoded"
            ) from None
        self._password = pool.connection_kwargs.get("password")
        self._location = _location(pool.connection_kwargs)
        self._redis = Redis.from_pool(pool)

    async def get(self, context_id: str) -> CompressedContext | None:
        """See `Store.get`."""
        try:
            with self._backend():
                value = await cast(Awaitable[bytes | None], self._redis.getex(_key(context_id), px=self._ttl_ms))
            return None if value is None else await asyncio.to_thread(decode, value, context_id)
        except ContextFormatError as error:
            self._on_damaged(error.reason)
            return None

    async def put(self, context: CompressedContext) -> None:
        """See `Store.put`.

        Raises:
            ContextTooLargeError: the encoded context is larger than Redis takes.
        """
        value = await asyncio.to_thread(encode, context)
        if len(value) > MAX_VALUE_BYTES:
            raise ContextTooLargeError(f"a context of {len(value)} bytes; Redis takes {MAX_VALUE_BYTES} at most")
        with self._backend():
            await self._redis.set(_key(context.id), value, px=self._ttl_ms)

    async def delete(self, context_id: str) -> bool:
        """See `Store.delete`."""
        with self._backend():
            return bool(await self._redis.unlink(_key(context_id)))

    async def info(self, context_id: str) -> ContextInfo | None:
        """See `Store.info`. Reads the head of the value only."""
        found = await self._infos([_key(context_id)])
        return found[0] if found else None

    async def list(self, limit: int = 100) -> tuple[ContextInfo, ...]:
        """See `Store.list`. Scans the database, and reads the heads of the values only."""
        limit = min(limit, MAX_LISTED)
        keys = await self._scan(limit)
        infos: list[ContextInfo] = []
        for start in range(0, len(keys), LIST_BATCH):
            infos += await self._infos(keys[start : start + LIST_BATCH])
        return tuple(infos)

    async def ping(self) -> None:
        """See `Store.ping`."""
        with self._backend():
            await self._redis.ping()

    async def close(self) -> None:
        """See `Store.close`."""
        await self._redis.aclose()

    async def _scan(self, limit: int) -> Sequence[bytes]:
        keys: dict[bytes, None] = {}  # SCAN may name a key twice
        with self._backend():
            async for key in self._redis.scan_iter(match=KEY_PREFIX + b"*", count=1000, _type="string"):
                if len(keys) >= limit:
                    break
                keys[key] = None
        return list(keys)

    async def _infos(self, keys: Sequence[bytes]) -> Sequence[ContextInfo]:
        """Of those `keys` that hold a whole head, in one round trip."""
        try:
            with self._backend():
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for key in keys:
                        pipeline.getrange(key, 0, MAX_HEAD_BYTES - 1)
                        pipeline.pttl(key)
                    replies = await pipeline.execute()
        except ContextFormatError as error:
            self._on_damaged(error.reason)
            return []
        infos = map(self._info, keys, replies[::2], replies[1::2])
        return [info for info in infos if info is not None]

    def _info(self, key: bytes, first_bytes: bytes, ttl_ms: int) -> ContextInfo | None:
        if not first_bytes:
            return None
        try:
            head = decode_head(first_bytes, key.removeprefix(KEY_PREFIX).decode(errors="replace"))
        except ContextFormatError as error:
            self._on_damaged(error.reason)
            return None
        return _describe(head, None if ttl_ms < 0 else time.time() + ttl_ms / 1000)

    @contextmanager
    def _backend(self) -> Iterator[None]:
        """Turns redis-py's errors into ours. They are not chained: a server may echo the password it was sent."""
        try:
            yield
        except (RedisError, OSError) as error:
            if "WRONGTYPE" in str(error):
                raise ContextFormatError("foreign", "the key holds a value of another Redis type") from None
            text = str(error).partition(", with args")[0]  # "unknown command 'HELLO', with args ... 'AUTH' ..."
            if self._password:
                text = text.replace(self._password, "***")
            raise StoreUnavailableError(f"Redis at {self._location}: {type(error).__name__}: {text}") from None


def _key(context_id: str) -> bytes:
    return KEY_PREFIX + context_id.encode(errors="backslashreplace")


def _location(options: dict[str, object]) -> str:
    host = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return f"{host}/{options.get('db', 0)}"


def _describe(head: Head, expires_at: float | None) -> ContextInfo:
    return ContextInfo(
        id=head.facts["id"],
        description=head.facts["description"],
        image_tokens=head.facts["image_tokens"],
        kept_tokens=head.tensors["kept_indices"].shape[-1],
        tokens=head.facts["next_position"],
        bytes=sum(tensor.nbytes for tensor in head.tensors.values()),
        created_at=head.facts["created_at"],
        expires_at=expires_at,
        retention=head.facts["retention"],
        selection=head.facts["selection"],
    )
