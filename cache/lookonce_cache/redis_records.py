"""Records in Redis: one string each, on the same servers as the contexts."""

from lookonce_cache.observer import Observer, observed
from lookonce_cache.records import RecordKey, seal, unseal
from lookonce_cache.redis_index import PREFIX
from lookonce_cache.redis_node import Command
from lookonce_cache.redis_servers import Servers, WrongTypeError, write_or_read, written


class RedisRecords:
    """`Records` shared by all servers.

    Args:
        servers: the store's; they are not closed here.
        ttl: seconds a record lives after its last use, None to leave eviction to Redis.
        observer: told of every call.
    """

    tier = "redis"

    def __init__(self, servers: Servers, *, ttl: float | None, observer: Observer) -> None:
        self.observer = observer
        self._servers = servers
        self._ttl = ttl

    @observed
    async def read(self, key: RecordKey, *, ttl: float | None = None) -> bytes | None:
        """See `Records.read`."""
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
    async def write(self, key: RecordKey, value: bytes, *, ttl: float | None = None) -> None:
        """See `Records.write`."""
        (reply,) = await self._servers.send(("SET", record_key(key), seal(key, value), *self._expiring(ttl)))
        written(self._servers, reply)

    @observed
    async def forget(self, key: RecordKey) -> bool:
        """See `Records.forget`."""
        (reply,) = await self._servers.send(("UNLINK", record_key(key)))
        return bool(written(self._servers, reply))

    def _expiring(self, ttl: float | None) -> tuple[str, int] | tuple[()]:
        seconds = self._ttl if ttl is None else ttl
        return () if seconds is None else ("PX", max(1, round(seconds * 1000)))


def record_key(key: RecordKey) -> str:
    """Where the record is. What is in braces decides a key's slot in a cluster."""
    return f"{PREFIX}record:{{{key.tenant}:{key.id}}}"
