"""What the tests of stores share."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from lookonce_cache import Observer

from .redis_server import RedisServer

# A busy machine is no failure, where a failure is not what is tested.
PATIENTLY = "?timeout=60&socket_timeout=60&socket_connect_timeout=60"

# All that a store on one Redis server needs; docs/redis.md has it too.
ACL_RULES = ("~lookonce:*", "+get", "+getex", "+set")


class Listener(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str, float]] = []  # store, operation, outcome, seconds
        self.transfers: list[tuple[str, str, int]] = []
        self.damage: list[tuple[str, str]] = []
        self.breakers: list[bool] = []

    def operation(self, store, operation, outcome, seconds):
        self.calls.append((store, operation, outcome, seconds))

    def transferred(self, store, direction, nbytes):
        self.transfers.append((store, direction, nbytes))

    def damaged(self, store, reason):
        self.damage.append((store, reason))

    def breaker(self, store, node, is_open):
        self.breakers.append(is_open)

    def outcomes(self, store: str, operation: str | None = None) -> list[tuple[str, str]]:
        """Operation and outcome of each call of one tier."""
        return [call[1:3] for call in self.calls if call[0] == store and operation in (None, call[1])]

    def seconds(self, outcome: str) -> list[float]:
        """How long each call with that outcome took."""
        return [call[3] for call in self.calls if call[2] == outcome]


async def eventually(condition: Callable[[], Awaitable[object]], seconds: float = 20) -> None:
    """Polls until the condition holds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)


def acl_url(server: RedisServer) -> str:
    """As a user who may do what a store needs, and nothing else."""
    return server.add_user("lookonce", "s3cret", *ACL_RULES)
