"""Which contexts a tenant has: a sorted set beside them, since finding keys by pattern walks the whole database."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from lookonce_cache.errors import InvalidContextError, WritesRefusedError
from lookonce_cache.identity import ContextKey, is_seconds
from lookonce_cache.stores.cursor import Cursor, parse_cursor
from lookonce_cache.stores.observer import StoreObserver
from lookonce_cache.stores.redis.scripts import REMOVE_UNCHANGED, UNLINK_FOREIGN_INDEX, run
from lookonce_cache.stores.redis.topology import Servers, WrongTypeError, checked, written

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


def last_lease_key(key: ContextKey) -> str:
    """Where the lease that was taken last is remembered when it has expired; in the same slot."""
    return f"{value_key(key)}:last-lease"


class _Entries(NamedTuple):
    """What was read of the index."""

    members: list[Member]
    foreign: list[tuple[float, bytes]]  # score and member that no server of ours has written


class RedisIndex:
    """One tenant's contexts, the newest first. It may name contexts that are gone, and never decides what there is.

    It is kept up to date after the fact: where that fails, or Redis evicts the index itself, contexts are missing from
    lists until they are put again, and are found by their key all the same.

    What is found in it and is not ours hides nothing that is: it is reported, skipped, and dropped where that can be.

    Every method may raise StoreUnavailableError.

    Args:
        servers: where it is.
        tenant: whose.
        observer: told of what is not ours.
    """

    def __init__(self, servers: Servers, tenant: str, observer: StoreObserver) -> None:
        self._servers = servers
        self._tenant = tenant
        self._observer = observer
        self._key = f"{PREFIX}index:{tenant}"

    async def add(self, key: ContextKey) -> None:
        """Name a context that has been put, and clean a little."""
        naming = ("ZADD", self._key, time.time(), key.id)
        sampling = ("ZRANDMEMBER", self._key, SAMPLED, "WITHSCORES")
        try:
            _, sample = await self._send(naming, sampling)
        except WrongTypeError:
            self._observer.damaged("redis", "index")
            written(self._servers, await run(self._servers, UNLINK_FOREIGN_INDEX, [self._key], []))
            _, sample = await self._send(naming, sampling)
        entries = self._entries(sample)
        alive = await self._servers.send(*(("EXISTS", value_key(member.key)) for member in entries.members))
        dead = [member for member, count in zip(entries.members, alive, strict=True) if count == 0]
        await self._drop(_named(dead) + entries.foreign)

    async def drop(self, key: ContextKey) -> None:
        """Do not name the context any more."""
        await self._send(("ZREM", self._key, key.id))

    async def drop_dead(self, dead: Sequence[Member]) -> None:
        """Do not name these any more, unless one has been put again since, or nothing can be written now."""
        await self._drop(_named(dead))

    async def newest_first(self, after: str | None, batch: int) -> AsyncGenerator[Sequence[Member], None]:
        """All members in batches; those after a cursor where one is given and is one.

        Each batch goes on from the last entry of the one before, not from its number, so that what is put or dropped
        meanwhile hides none.
        """
        cursor = parse_cursor(after)
        last = None if cursor is None else (cursor.time, cursor.id.encode())
        while True:
            highest = "+inf" if last is None else repr(last[0])
            command = ("ZREVRANGEBYSCORE", self._key, highest, "-inf", "WITHSCORES", "LIMIT", 0, batch)
            try:
                (reply,) = await self._send(command)
            except WrongTypeError:
                self._observer.damaged("redis", "index")
                return
            fresh = [(name, score) for name, score in reply if last is None or (score, name) < last]
            entries = self._entries(fresh)
            if entries.members:
                yield entries.members
            await self._drop(entries.foreign)
            if len(reply) < batch:
                return
            if fresh:
                name, score = fresh[-1]
                last = (score, name)
            else:
                batch *= 2  # more than a batch were put at one time

    def _entries(self, reply: Sequence[tuple[bytes, float]]) -> _Entries:
        """What a reply tells, which is names with their scores."""
        entries = _Entries([], [])
        for name, score in reply:
            try:
                key = ContextKey(self._tenant, name.decode("ascii"))
            except (UnicodeDecodeError, InvalidContextError):
                key = None
            if key is not None and is_seconds(score):
                entries.members.append(Member(key, score))
            else:
                self._observer.damaged("redis", "index")
                entries.foreign.append((score, name))
        return entries

    async def _drop(self, entries: Sequence[tuple[float, bytes]]) -> None:
        if not entries:
            return
        arguments = [part for score, name in entries for part in (repr(score), name)]
        with suppress(WritesRefusedError, WrongTypeError):
            written(self._servers, await run(self._servers, REMOVE_UNCHANGED, [self._key], arguments))

    async def _send(self, *commands: Any) -> list[Any]:
        return [checked(self._servers, reply) for reply in await self._servers.send(*commands)]


def _named(members: Sequence[Member]) -> list[tuple[float, bytes]]:
    """Members as they stand in the index."""
    return [(member.score, member.key.id.encode()) for member in members]
