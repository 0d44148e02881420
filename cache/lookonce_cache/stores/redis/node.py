"""One Redis server: connections, deadline, retries and breaker."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, ClusterDownError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.maint_notifications import MaintNotificationsConfig

from lookonce_cache.errors import StoreUnavailableError
from lookonce_cache.stores.observer import StoreObserver
from lookonce_cache.stores.redis.breaker import Breaker
from lookonce_cache.stores.redis.options import Address, RedisOptions
from lookonce_cache.stores.redis.refusals import refusal_of

RETRIES = 3  # of a lost connection, within about a second
BACKOFF = ExponentialWithJitterBackoff(base=0.1, cap=0.5)
NOT_WORTH_RETRYING = (AuthenticationError, BusyLoadingError)
READ_SIZE = (
    256 * 1024
)  # what asyncio takes from a socket at most: megabytes come in fewer pieces than by redis-py's 32 KiB

# A command and its arguments. The key is the argument after the name, or after the number of keys.
Command = tuple[str | bytes | int | float, ...]


class Node:
    """One Redis server, 6.2 or newer.

    A lost connection is tried again, three times within about a second, so that a restart between two commands is not
    noticed. A timeout is not, since the caller has a better use for the time: it can answer by the full pass. Neither
    is a wrong password, nor a server that loads its data.

    Args:
        address: where it listens.
        options: how to talk to it.
        observer: told when the breaker opens and closes.
        probe: raises unless the node works; None to see whether it answers.
    """

    def __init__(
        self, address: Address, options: RedisOptions, observer: StoreObserver, probe: "Probe | None" = None
    ) -> None:
        self.address = address
        self.breaker = Breaker(
            lambda: (probe or _ping)(self), lambda is_open: observer.breaker("redis", str(address), is_open)
        )
        self._options = options
        self._location = str(address) if options.cluster else options.location
        self._redis = _connect(address, options)
        self._room = asyncio.Semaphore(options.max_connections)

    async def send(self, commands: Sequence[Command], *, asking: bool = False) -> list[Any]:
        """The replies, in one round trip. Where Redis replied with an error, that ResponseError stands in its place.

        Args:
            commands: what to send; several are a pipeline, and no transaction.
            asking: send each with ASKING, which a cluster wants while it moves a slot.

        Raises:
            StoreUnavailableError: the server is given up, cannot be reached, does not answer in time, or does not let
                us in.
        """
        if self.breaker.is_open:
            raise StoreUnavailableError(self.breaker.reason)
        return await self._send(commands, self._room, asking=asking)

    async def ping(self) -> None:
        """Asks the server even if it was given up, and uses it again if it answers.

        Raises:
            StoreUnavailableError: see `send`; or it answers with an error, other than that it takes no writes: a
                server that cannot save says so to PING too, and still serves reads.
        """
        (reply,) = await self._send([("PING",)], asyncio.Semaphore())
        if isinstance(reply, ResponseError) and refusal_of(reply) is None:  # to connecting, maybe
            raise self.unavailable(reply)
        self.breaker.close()

    async def ask(self, *command: str) -> Any:
        """The reply to a command about the server itself, past the breaker, in the time that connecting may take.

        Raises:
            RedisError, OSError: what redis-py raised, or Redis replied.
        """
        async with asyncio.timeout(self._options.socket_connect_timeout):
            (reply,) = await self._attempt([command])
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def unavailable(self, error: Exception) -> StoreUnavailableError:
        """What redis-py raised, as an error of ours that quotes no password: a server may echo the one it was sent."""
        text = str(error).partition(", with args")[0]  # "unknown command 'HELLO', with args ... 'AUTH' ..."
        if self._options.password:
            text = text.replace(self._options.password, "***")
        return StoreUnavailableError(f"Redis at {self._location}: {type(error).__name__}: {text}")

    async def rest(self) -> None:
        """Nobody is sent here for now: no probes, and no idle connections."""
        self.breaker.close()
        with suppress(RedisError, OSError):  # a connection that TLS cannot say goodbye on
            await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """The node is not used after it."""
        await self.breaker.stop()
        with suppress(RedisError, OSError):
            await self._redis.aclose()

    async def _send(self, commands: Sequence[Command], room: asyncio.Semaphore, *, asking: bool = False) -> list[Any]:
        try:
            async with asyncio.timeout(self._options.timeout), room:
                return await self._insist(commands, asking=asking)
        except TimeoutError:
            error: Exception = TimeoutError(f"no answer within {self._options.timeout:g} s")
        except (RedisError, OSError) as caught:
            error = caught
        failure = self.unavailable(error)
        self.breaker.open(str(failure))
        raise failure

    async def _insist(self, commands: Sequence[Command], *, asking: bool) -> list[Any]:
        failures = 0
        while True:
            try:
                return await self._attempt(commands, asking=asking)
            except RedisConnectionError as error:
                failures += 1
                if failures > RETRIES or isinstance(error, NOT_WORTH_RETRYING) or self.breaker.is_open:
                    raise
            await asyncio.sleep(BACKOFF.compute(failures))

    async def _attempt(self, commands: Sequence[Command], *, asking: bool = False) -> list[Any]:
        replies = await (self._pipe(commands, asking=asking) if asking or len(commands) > 1 else self._one(commands[0]))
        for reply in replies:
            if isinstance(reply, ClusterDownError):  # or that a replica has lost its master: the node serves nobody
                raise reply
        return replies

    async def _one(self, command: Command) -> list[Any]:
        try:
            return [await self._redis.execute_command(*command)]  # type: ignore[no-untyped-call]
        except ResponseError as error:
            return [error]

    async def _pipe(self, commands: Sequence[Command], *, asking: bool) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                if asking:
                    pipeline.execute_command("ASKING")
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies[1::2] if asking else replies


Probe = Callable[[Node], Awaitable[None]]


async def _ping(node: Node) -> None:
    try:
        await node.ask("PING")
    except ClusterDownError:
        raise
    except ResponseError:
        return  # such as that this user may not PING: it answers


class _Checked:
    """A connection whose health check takes any answer for health.

    redis-py's own takes "+PONG" only; a server that cannot save its data says "-MISCONF" to PING, and serves reads.
    """

    async def check_health(self) -> None:
        """See redis-py; called before a command is sent on a connection that was idle."""
        with suppress(ResponseError):
            await super().check_health()  # type: ignore[misc]


class _Tcp(_Checked, Connection):
    pass


class _Tls(_Checked, SSLConnection):
    pass


class _Unix(_Checked, UnixDomainSocketConnection):
    pass


def _connect(address: Address, options: RedisOptions) -> Redis:
    """A client of one server, connected when it is used.

    redis-py's own retries are off: they nest, one loop around another. So are its maintenance notifications, which make
    it use a connection even if something is left to be read on it. Without them, a connection whose reply nobody read
    to its end is never used again: redis-py closes it when reading or writing is cut off by whatever exception,
    CancelledError included, and looks for left-over bytes before each use besides.
    """
    kind: type[Connection | UnixDomainSocketConnection] = _Tls if options.tls is not None else _Tcp
    place: dict[str, Any] = {"host": address.host, "port": address.port}
    if not address.port:
        kind, place = _Unix, {"path": address.host}
    pool = ConnectionPool(
        connection_class=kind,
        max_connections=2**31,  # `Node` limits them: a pool would raise instead of waiting
        username=options.username,
        password=options.password,
        db=options.db,
        client_name=options.client_name,
        socket_timeout=options.socket_timeout,
        socket_connect_timeout=options.socket_connect_timeout,
        socket_read_size=READ_SIZE,
        health_check_interval=options.health_check_interval,
        protocol=3,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **place,
        **(options.tls or {}),
    )
    client = Redis.from_pool(pool)
    client.response_callbacks.clear()  # replies as Redis sends them, the same in every version of redis-py
    return client
