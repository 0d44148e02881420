"""Store blobs in Redis, one string each, on the same servers as the contexts."""

from lookonce_cache.stores.blobs import BlobKey, seal, unseal
from lookonce_cache.stores.observer import StoreObserver, observed
from lookonce_cache.stores.redis.index import PREFIX
from lookonce_cache.stores.redis.node import Command
from lookonce_cache.stores.redis.topology import Servers, WrongTypeError, check_write, read_and_renew


class RedisBlobStore:
    """Keep blobs in Redis.

    Args:
        servers: the store's servers; they are not closed here.
        ttl: seconds for which a blob is kept after its last use; None to leave eviction to Redis.
        observer: receives every call.
    """

    tier = "redis"

    def __init__(self, servers: Servers, *, ttl: float | None, observer: StoreObserver) -> None:
        self.observer = observer
        self._servers = servers
        self._ttl = ttl

    @observed
    async def read(self, key: BlobKey, *, ttl: float | None = None) -> bytes | None:
        """Read as `BlobStore.read` says."""
        plain: Command = ("GET", blob_key(key))
        expiry = self._expiry(ttl)
        command: Command = ("GETEX", blob_key(key), *expiry) if expiry else plain
        try:
            stored: bytes | None = await read_and_renew(self._servers, self.observer, command, plain)
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
        """Write as `BlobStore.write` says."""
        (reply,) = await self._servers.send(("SET", blob_key(key), seal(key, value), *self._expiry(ttl)))
        check_write(self._servers, reply)

    @observed
    async def add(self, key: BlobKey, value: bytes, *, ttl: float | None = None) -> bool:
        """Add as `BlobStore.add` says."""
        (reply,) = await self._servers.send(("SET", blob_key(key), seal(key, value), "NX", *self._expiry(ttl)))
        return check_write(self._servers, reply) is not None

    @observed
    async def forget(self, key: BlobKey) -> bool:
        """Delete as `BlobStore.forget` says."""
        (reply,) = await self._servers.send(("UNLINK", blob_key(key)))
        return bool(check_write(self._servers, reply))

    def _expiry(self, ttl: float | None) -> tuple[str, int] | tuple[()]:
        seconds = self._ttl if ttl is None else ttl
        return () if seconds is None else ("PX", max(1, round(seconds * 1000)))


def blob_key(key: BlobKey) -> str:
    """Return the Redis key of a blob.

    The part in braces decides its slot in a cluster.
    """
    return f"{PREFIX}record:{{{key.tenant}:{key.id}}}"
