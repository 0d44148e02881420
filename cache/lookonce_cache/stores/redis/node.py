"""Send commands to one Redis server, with deadline, retries and circuit breaker."""

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
NOT_RETRIED = (AuthenticationError, BusyLoadingError)
READ_SIZE = 256 * 1024  # bytes per read of a socket; redis-py's 32 KiB would split large values into many reads

# A command and its arguments. The key is the argument after the name, or after the number of keys.
Command = tuple[str | bytes | int | float, ...]


class Node:
    """Send commands to one Redis server, 6.2 or newer.

    A lost connection is retried three times within about a second, so that a restart between two commands is not
    noticed. A timeout is not retried, since the caller can answer by a full pass in that time. Neither is a wrong
    password, nor a server that is loading its data.

    Args:
        address: the server's address.
        options: the options of connections.
        observer: receives the changes of the breaker.
        probe: raises unless the node works; None to ping it.
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
        self._slots = asyncio.Semaphore(options.max_connections)

    async def send(self, commands: Sequence[Command], *, asking: bool = False) -> list[Any]:
        """Send commands and return the replies, in one round trip.

        An error reply of Redis is returned as a ResponseError in its place.

        Args:
            commands: the commands; several are a pipeline, and no transaction.
            asking: sends each after ASKING, which a cluster requires while it moves a slot.

        Raises:
            StoreUnavailableError: the breaker is open, or the server cannot be reached, does not answer in time, or
                refuses the login.
        """
        if self.breaker.is_open:
            raise StoreUnavailableError(self.breaker.reason)
        return await self._send(commands, self._slots, asking=asking)

    async def ping(self) -> None:
        """Ping the server despite an open breaker, and close the breaker if it answers.

        Raises:
            StoreUnavailableError: see `send`; or the server answers with an error other than a refusal of writes: a
                server that cannot save its data refuses PING too, and still serves reads.
        """
        (reply,) = await self._send([("PING",)], asyncio.Semaphore())
        if isinstance(reply, ResponseError) and refusal_of(reply) is None:  # perhaps a reply to connecting
            raise self.unavailable(reply)
        self.breaker.close()

    async def ask(self, *command: str) -> Any:
        """Send a command past the breaker, within the connect timeout.

        Raises:
            RedisError, OSError: redis-py's error, or Redis's error reply.
        """
        async with asyncio.timeout(self._options.socket_connect_timeout):
            (reply,) = await self._send_once([command])
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def unavailable(self, error: Exception) -> StoreUnavailableError:
        """Convert an error, and strip the password.

        A server may echo the one that it was sent.
        """
        text = str(error).partition(", with args")[0]  # "unknown command 'HELLO', with args ... 'AUTH' ..."
        if self._options.password:
            text = text.replace(self._options.password, "***")
        return StoreUnavailableError(f"Redis at {self._location}: {type(error).__name__}: {text}")

    async def suspend(self) -> None:
        """Stop probes and close idle connections, since the node has no slots for now."""
        self.breaker.close()
        with suppress(RedisError, OSError):  # TLS may fail to shut a connection down
            await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """Stop probes and close all connections."""
        await self.breaker.stop()
        with suppress(RedisError, OSError):
            await self._redis.aclose()

    async def _send(self, commands: Sequence[Command], slots: asyncio.Semaphore, *, asking: bool = False) -> list[Any]:
        try:
            async with asyncio.timeout(self._options.timeout), slots:
                return await self._send_with_retries(commands, asking=asking)
        except TimeoutError:
            error: Exception = TimeoutError(f"no answer within {self._options.timeout:g} s")
        except (RedisError, OSError) as caught:
            error = caught
        failure = self.unavailable(error)
        self.breaker.open(str(failure))
        raise failure

    async def _send_with_retries(self, commands: Sequence[Command], *, asking: bool) -> list[Any]:
        failures = 0
        while True:
            try:
                return await self._send_once(commands, asking=asking)
            except RedisConnectionError as error:
                failures += 1
                if failures > RETRIES or isinstance(error, NOT_RETRIED) or self.breaker.is_open:
                    raise
            await asyncio.sleep(BACKOFF.compute(failures))

    async def _send_once(self, commands: Sequence[Command], *, asking: bool = False) -> list[Any]:
        replies = await (
            self._send_pipeline(commands, asking=asking)
            if asking or len(commands) > 1
            else self._send_command(commands[0])
        )
        for reply in replies:
            if isinstance(reply, ClusterDownError):  # or a replica has lost its master: the node serves no keys
                raise reply
        return replies

    async def _send_command(self, command: Command) -> list[Any]:
        try:
            return [await self._redis.execute_command(*command)]  # type: ignore[no-untyped-call]
        except ResponseError as error:
            return [error]

    async def _send_pipeline(self, commands: Sequence[Command], *, asking: bool) -> list[Any]:
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
        return  # for example, the user may not PING: the server answers


class _LenientHealthCheck:
    """Accept any reply to a connection's health check.

    redis-py accepts "+PONG" only; a server that cannot save its data replies "-MISCONF" to PING, and serves reads.
    """

    async def check_health(self) -> None:
        """Check the connection, before a command is sent on one that was idle."""
        with suppress(ResponseError):
            await super().check_health()  # type: ignore[misc]


class _Tcp(_LenientHealthCheck, Connection):
    pass


class _Tls(_LenientHealthCheck, SSLConnection):
    pass


class _Unix(_LenientHealthCheck, UnixDomainSocketConnection):
    pass


def _connect(address: Address, options: RedisOptions) -> Redis:
    """Build a client of one server, which connects on first use.

    redis-py's own retries are off: they nest, one loop around another. So are its maintenance notifications, which make
    it use a connection even if bytes are left to be read on it. Without them, a connection whose reply was not read to
    its end is never used again: redis-py closes it if any exception interrupts a read or write, CancelledError
    included, and checks for left-over bytes before each use besides.
    """
    kind: type[Connection | UnixDomainSocketConnection] = _Tls if options.tls is not None else _Tcp
    endpoint: dict[str, Any] = {"host": address.host, "port": address.port}
    if not address.port:
        kind, endpoint = _Unix, {"path": address.host}
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
        **endpoint,
        **(options.tls or {}),
    )
    client = Redis.from_pool(pool)
    client.response_callbacks.clear()  # replies as Redis sends them, the same in every version of redis-py
    return client
