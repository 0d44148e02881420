"""Send commands to the right server, and check the replies."""

from typing import Any, Protocol

from redis.exceptions import ResponseError

from lookonce_cache.errors import StoreUnavailableError, WritesRefusedError
from lookonce_cache.stores.base import NodeUsage
from lookonce_cache.stores.observer import StoreObserver
from lookonce_cache.stores.redis.node import Command, Node
from lookonce_cache.stores.redis.options import RedisOptions
from lookonce_cache.stores.redis.refusals import refusal_of
from lookonce_cache.stores.redis.usage import usage_of


class Servers(Protocol):
    """Send commands to one Redis server, or to the nodes of a cluster."""

    async def send(self, *commands: Command) -> list[Any]:
        """Send commands as `Node.send` does; those to one node are one round trip.

        Raises:
            StoreUnavailableError: a node is unavailable; the commands to others may have been carried out.
        """

    def unavailable(self, error: Exception) -> StoreUnavailableError:
        """Convert an error as `Node.unavailable` does."""

    async def usage(self) -> list[NodeUsage]:
        """Return the memory of each node, except of those that do not tell."""

    async def ping(self) -> None:
        """Raise StoreUnavailableError unless every node works, despite open breakers."""

    async def close(self) -> None:
        """Close all connections."""


class WrongTypeError(StoreUnavailableError):
    """A key holds a value of another type than the command's."""


def check_reply(servers: Servers, reply: Any) -> Any:
    """Return a reply that is no error.

    Raises:
        WrongTypeError, StoreUnavailableError: the reply is an error.
    """
    if not isinstance(reply, ResponseError):
        return reply
    failure = servers.unavailable(reply)
    raise WrongTypeError(str(failure)) if str(reply).startswith("WRONGTYPE") else failure


def check_write(servers: Servers, reply: Any) -> Any:
    """Return the reply to a write.

    Raises:
        WritesRefusedError: Redis refuses writes.
        WrongTypeError, StoreUnavailableError: the reply is another error.
    """
    reason = refusal_of(reply)
    if reason is not None:
        raise WritesRefusedError(reason, str(servers.unavailable(reply)))
    return check_reply(servers, reply)


async def read_and_renew(servers: Servers, observer: StoreObserver, command: Command, fallback: Command) -> Any:
    """Send a command that reads and renews, or only reads if Redis refuses writes.

    Raises:
        WrongTypeError, StoreUnavailableError: see `check_reply` and `Servers.send`.
    """
    (reply,) = await servers.send(command)
    reason = refusal_of(reply)
    if reason is not None:
        observer.writes("redis", reason)
        (reply,) = await servers.send(fallback)
    return check_reply(servers, reply)


class SingleNode:
    """Send all commands to one Redis server."""

    def __init__(self, options: RedisOptions, observer: StoreObserver) -> None:
        self._node = Node(options.addresses[0], options, observer)

    async def send(self, *commands: Command) -> list[Any]:
        """Send as `Servers.send` says."""
        return await self._node.send(commands) if commands else []

    def unavailable(self, error: Exception) -> StoreUnavailableError:
        """Convert an error as `Servers.unavailable` says."""
        return self._node.unavailable(error)

    async def usage(self) -> list[NodeUsage]:
        """Tell as `Servers.usage` says."""
        return await usage_of([self._node])

    async def ping(self) -> None:
        """Ping as `Servers.ping` says."""
        await self._node.ping()

    async def close(self) -> None:
        """Close as `Servers.close` says."""
        await self._node.close()
