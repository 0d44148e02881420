"""Records in Redis: one string each, on the same servers as the contexts."""

from lookonce_cache.stores.blobs import BlobKey, seal, unseal
from lookonce_cache.stores.observer import StoreObserver, observed
from lookonce_cache.stores.redis.index import PREFIX
from lookonce_cache.stores.redis.node import Command
from lookonce_cache.stores.redis.topology import Servers, WrongTypeError, write_or_read, written


class RedisBlobStore:
    """`BlobStore` shared by all servers.

    Args:
        servers: the store's; they are not closed here.
        ttl: seconds a record lives after its last use, None to leave eviction to Redis.
        observer: told of every call.
    """

    tier = "redis"

    def __init__(self, servers: Servers, *, ttl: float | None, observer: StoreObserver) -> None:
        self.observer = observer
        self._servers = servers
        self._ttl = ttl

    @observed
    async def read(self, key: BlobKey, *, ttl: float | None = None) -> bytes | None:
        """See `BlobStore.read`."""
        plain: Command = ("GET", record_key(key))
        expiring = self._expiring(ttl)
        command: Command = ("GETEX", record_key(key), *expiring) if expiring else plain
        try:
            stored: bytes | None = await write_or_read(self._servers, self.observer, command, plain)
        except WrongTypeError:
            stored = b""
        if stored is None:
            return None
        value = unseal(key, stored)
        if value is None:
            self.observer.damaged(self.tier, "record")
        return value

    @observed
    async def write(self, key: BlobKey, value: bytes, *, ttl: float | None = None) -> None:
        """See `BlobStore.write`."""
        (reply,) = await self._servers.send(("SET", record_key(key), seal(key, value), *self._expiring(ttl)))
        written(self._servers, reply)

    @observed
    async def forget(self, key: BlobKey) -> bool:
        """See `BlobStore.forget`."""
        (reply,) = await self._servers.send(("UNLINK", record_key(key)))
        return bool(written(self._servers, reply))

    def _expiring(self, ttl: float | None) -> tuple[str, int] | tuple[()]:
        seconds = self._ttl if ttl is None else ttl
        return () if seconds is None else ("PX", max(1, round(seconds * 1000)))


def record_key(key: BlobKey) -> str:
    """Where the record is. What is in braces decides a key's slot in a cluster."""
    return f"{PREFIX}record:{{{key.tenant}:{key.id}}}"
