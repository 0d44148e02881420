"""Which contexts a tenant has: a sorted set beside them, since finding keys by pattern walks the whole database."""

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

from lookonce_cache.cursor import Cursor, parse_cursor
from lookonce_cache.keys import ContextKey
from lookonce_cache.redis_scripts import REMOVE_UNCHANGED, run
from lookonce_cache.redis_servers import Servers, checked

SAMPLED = 16  # members looked at after each put: of all, one in so many names a context that is gone, at most
PREFIX = "lookonce:1:"


class Member(NamedTuple):
    """A context in the index."""

    key: ContextKey
    score: float  # unix time in seconds when it was put

    @property
    def cursor(self) -> Cursor:
        """Its place, for a list that goes on after it."""
        return Cursor(self.score, self.key.id)


def value_key(key: ContextKey) -> str:
    """Where the context is. What is in braces decides a key's slot in a cluster."""
    return f"{PREFIX}{{{key.tenant}:{key.id}}}"


def lease_key(key: ContextKey) -> str:
    """Where the lease on making the context is; in the same slot."""
    return f"{value_key(key)}:lease"


class RedisIndex:
    """One tenant's contexts, the newest first. It may name contexts that are gone, and never decides what there is.

    It is kept up to date after the fact: where that fails, or Redis evicts the index itself, contexts are missing from
    lists until they are put again, and are found by their key all the same.

    Every method may raise StoreUnavailableError.
    """

    def __init__(self, servers: Servers, tenant: str) -> None:
        self._servers = servers
        self._tenant = tenant
        self._key = f"{PREFIX}index:{tenant}"

    async def add(self, key: ContextKey) -> None:
        """Name a context that has been put, and clean a little."""
        _, sample = await self._send(
            ("ZADD", self._key, time.time(), key.id), ("ZRANDMEMBER", self._key, SAMPLED, "WITHSCORES")
        )
        members = self._members(sample)
        alive = await self._servers.send(*(("EXISTS", value_key(member.key)) for member in members))
        await self.drop_dead([member for member, count in zip(members, alive, strict=True) if count == 0])

    async def drop(self, key: ContextKey) -> None:
        """Do not name the context any more."""
        await self._send(("ZREM", self._key, key.id))

    async def drop_dead(self, dead: Sequence[Member]) -> None:
        """Do not name these any more, unless one has been put again since."""
        if dead:
            arguments = [part for member in dead for part in (repr(member.score), member.key.id)]
            checked(self._servers, await run(self._servers, REMOVE_UNCHANGED, [self._key], arguments))

    async def newest_first(self, after: str | None, batch: int) -> AsyncGenerator[Sequence[Member], None]:
        """All members in batches; those after a cursor where one is given and is one.

        Each batch goes on from the last member of the one before, not from its number, so that what is put or dropped
        meanwhile hides none.
        """
        cursor = parse_cursor(after)
        while True:
            highest = "+inf" if cursor is None else repr(cursor.time)
            command = ("ZREVRANGEBYSCORE", self._key, highest, "-inf", "WITHSCORES", "LIMIT", 0, batch)
            (reply,) = await self._send(command)
            members = [member for member in self._members(reply) if cursor is None or member.cursor < cursor]
            if members:
                yield members
                cursor = members[-1].cursor
            if len(reply) < batch:
                return
            if not members:
                batch *= 2  # more than a batch were put at one time

    def _members(self, reply: Any) -> list[Member]:
        return [Member(ContextKey(self._tenant, id_.decode()), score) for id_, score in reply]

    async def _send(self, *commands: Any) -> list[Any]:
        return [checked(self._servers, reply) for reply in await self._servers.send(*commands)]
