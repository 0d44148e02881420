"""Which contexts a tenant has: a sorted set beside them, since finding keys by pattern walks the whole database."""

import math
import re
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

from lookonce_cache.keys import ContextKey
from lookonce_cache.redis_scripts import REMOVE_UNCHANGED, run
from lookonce_cache.redis_servers import Servers, checked

CLEANED = 16  # members looked at after each put
PREFIX = "lookonce:1:"

_CURSOR = re.compile(r"([0-9.e+-]{1,32}):([0-9a-f]{64})")


class Member(NamedTuple):
    """A context in the index."""

    key: ContextKey
    score: float  # unix time in seconds when it was put, or last seen alive by the cleaning

    @property
    def cursor(self) -> str:
        """Its place, for a list that goes on after it."""
        return f"{self.score!r}:{self.key.id}"


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
        _, oldest = await self._send(
            ("ZADD", self._key, time.time(), key.id), ("ZRANGE", self._key, 0, CLEANED - 1, "WITHSCORES")
        )
        await self._clean(self._members(oldest))

    async def drop(self, key: ContextKey) -> None:
        """Do not name the context any more."""
        await self._send(("ZREM", self._key, key.id))

    async def drop_dead(self, dead: Sequence[Member]) -> None:
        """Do not name these any more, unless one has been put again since."""
        if dead:
            arguments = [part for member in dead for part in (repr(member.score), member.key.id)]
            checked(self._servers, await run(self._servers, REMOVE_UNCHANGED, [self._key], arguments))

    async def newest_first(self, after: str | None, batch: int) -> AsyncGenerator[Sequence[Member], None]:
        """All members in batches; those after a cursor where one is given and is one."""
        cursor = _parse_cursor(after)
        highest = "+inf" if cursor is None else repr(cursor[0])
        for offset in range(0, 2**62, batch):
            command = ("ZREVRANGEBYSCORE", self._key, highest, "-inf", "WITHSCORES", "LIMIT", offset, batch)
            (reply,) = await self._send(command)
            members = self._members(reply)
            yield [member for member in members if cursor is None or (member.score, member.key.id) < cursor]
            if len(members) < batch:
                break

    async def _clean(self, oldest: Sequence[Member]) -> None:
        """Drops those of the oldest that are gone, and moves the others to the end of the queue."""
        alive = await self._servers.send(*(("EXISTS", value_key(member.key)) for member in oldest))
        await self.drop_dead([member for member, count in zip(oldest, alive, strict=True) if count == 0])
        seen = [part for member, count in zip(oldest, alive, strict=True) if count == 1 for part in _seen(member)]
        if seen:
            # XX: not one that was deleted meanwhile. GT: not before a put that was meanwhile.
            await self._send(("ZADD", self._key, "XX", "GT", *seen))

    def _members(self, reply: Any) -> list[Member]:
        return [Member(ContextKey(self._tenant, id_.decode()), score) for id_, score in reply]

    async def _send(self, *commands: Any) -> list[Any]:
        return [checked(self._servers, reply) for reply in await self._servers.send(*commands)]


def _seen(member: Member) -> tuple[float, str]:
    return time.time(), member.key.id


def _parse_cursor(text: str | None) -> tuple[float, str] | None:
    match = _CURSOR.fullmatch(text or "")
    try:
        score = float(match[1]) if match else math.nan
    except ValueError:
        return None
    return (score, match[2]) if match and math.isfinite(score) else None
