"""Which server a command goes to. A single server gets them all; for a cluster see redis_cluster.py."""

from typing import Any, Protocol

from redis.exceptions import ResponseError

from lookonce_cache.errors import StoreUnavailableError, WritesRefusedError
from lookonce_cache.stores.observer import StoreObserver
from lookonce_cache.stores.redis.node import Command, Node
from lookonce_cache.stores.redis.options import RedisOptions
from lookonce_cache.stores.redis.refusals import refusal_of


class Servers(Protocol):
    """One Redis server, or a cluster of them."""

    async def send(self, *commands: Command) -> list[Any]:
        """The replies; see `Node.send`. Commands to one node are one round trip and run there in the order given.

        Raises:
            StoreUnavailableError: a node that was needed is unavailable; the other commands may have been carried out.
        """

    def unavailable(self, error: Exception) -> StoreUnavailableError:
        """See `Node.unavailable`."""

    async def ping(self) -> None:
        """Return if every node works, and raise StoreUnavailableError if one does not, given up before or not."""

    async def close(self) -> None:
        """Close all connections."""


class WrongTypeError(StoreUnavailableError):
    """A key holds something else than the command is for."""


def checked(servers: Servers, reply: Any) -> Any:
    """The reply.

    Raises:
        WrongTypeError, StoreUnavailableError: it is an error.
    """
    if not isinstance(reply, ResponseError):
        return reply
    failure = servers.unavailable(reply)
    raise WrongTypeError(str(failure)) if str(reply).startswith("WRONGTYPE") else failure


def written(servers: Servers, reply: Any) -> Any:
    """The reply to a command that writes.

    Raises:
        WritesRefusedError: Redis takes no writes.
        WrongTypeError, StoreUnavailableError: as `checked` does.
    """
    reason = refusal_of(reply)
    if reason is not None:
        raise WritesRefusedError(reason, str(servers.unavailable(reply)))
    return checked(servers, reply)


async def write_or_read(servers: Servers, observer: StoreObserver, command: Command, reading: Command) -> Any:
    """The reply; where Redis takes no writes, that of the reading command: reads go on, and expiry is not put off.

    Raises:
        WrongTypeError, StoreUnavailableError: as `checked` and `Servers.send` do.
    """
    (reply,) = await servers.send(command)
    reason = refusal_of(reply)
    if reason is not None:
        observer.writes("redis", reason)
        (reply,) = await servers.send(reading)
    return checked(servers, reply)


class SingleNode:
    """See `Servers`."""

    def __init__(self, options: RedisOptions, observer: StoreObserver) -> None:
        self._node = Node(options.addresses[0], options, observer)

    async def send(self, *commands: Command) -> list[Any]:
        """See `Servers.send`."""
        return await self._node.send(commands) if commands else []

    def unavailable(self, error: Exception) -> StoreUnavailableError:
        """See `Servers.unavailable`."""
        return self._node.unavailable(error)

    async def ping(self) -> None:
        """See `Servers.ping`."""
        await self._node.ping()

    async def close(self) -> None:
        """See `Servers.close`."""
        await self._node.close()
