"""Index a tenant's contexts in a sorted set: SCAN would walk the whole database."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from lookonce_cache.errors import InvalidContextError, WritesRefusedError
from lookonce_cache.identity import ContextKey, is_seconds
from lookonce_cache.stores.cursor import Cursor, parse_cursor
from lookonce_cache.stores.observer import StoreObserver
from lookonce_cache.stores.redis.scripts import REMOVE_UNCHANGED, UNLINK_FOREIGN_INDEX, run
from lookonce_cache.stores.redis.topology import Servers, WrongTypeError, check_reply, check_write

SAMPLE_SIZE = 16  # members check_reply after each put; so at most one member in 16 is of a context that is gone
PREFIX = "lookonce:1:"


class Member(NamedTuple):
    """A context in the index."""

    key: ContextKey
    score: float  # unix time in seconds when it was put

    @property
    def cursor(self) -> Cursor:
        """The position at which the next page begins."""
        return Cursor(self.score, self.key.id)


def value_key(key: ContextKey) -> str:
    """Return the Redis key of a context.

    The part in braces decides its slot in a cluster.
    """
    return f"{PREFIX}{{{key.tenant}:{key.id}}}"


def lease_key(key: ContextKey) -> str:
    """Return the Redis key of the lease on a context, in the same slot."""
    return f"{value_key(key)}:lease"


def last_lease_key(key: ContextKey) -> str:
    """Return the Redis key of the last lease, expired or not, in the same slot."""
    return f"{value_key(key)}:last-lease"


class _Entries(NamedTuple):
    """Members that were read from the index."""

    members: list[Member]
    foreign: list[tuple[float, bytes]]  # score and member that lookonce has not written


class RedisIndex:
    """Keep the index of one tenant's contexts, the newest first.

    The index may list contexts that are gone, and never decides which exist. It is updated after a put: if that fails,
    or Redis evicts the index, contexts are missing from lists until they are put again, and are found by their key all
    the same.

    Foreign members hide none of ours: they are reported, skipped, and removed if possible.

    Every method may raise StoreUnavailableError.

    Args:
        servers: the servers.
        tenant: the tenant's name.
        observer: receives reports of foreign members.
    """

    def __init__(self, servers: Servers, tenant: str, observer: StoreObserver) -> None:
        self._servers = servers
        self._tenant = tenant
        self._observer = observer
        self._key = f"{PREFIX}index:{tenant}"

    async def add(self, key: ContextKey) -> None:
        """Add a context, and remove some members of contexts that are gone."""
        add = ("ZADD", self._key, time.time(), key.id)
        sample = ("ZRANDMEMBER", self._key, SAMPLE_SIZE, "WITHSCORES")
        try:
            _, members = await self._send(add, sample)
        except WrongTypeError:
            self._observer.damaged("redis", "index")
            check_write(self._servers, await run(self._servers, UNLINK_FOREIGN_INDEX, [self._key], []))
            _, members = await self._send(add, sample)
        entries = self._entries(members)
        alive = await self._servers.send(*(("EXISTS", value_key(member.key)) for member in entries.members))
        dead = [member for member, count in zip(entries.members, alive, strict=True) if count == 0]
        await self._drop(_raw(dead) + entries.foreign)

    async def drop(self, key: ContextKey) -> None:
        """Remove a context."""
        await self._send(("ZREM", self._key, key.id))

    async def drop_dead(self, dead: Sequence[Member]) -> None:
        """Remove members, except any that was put again since."""
        await self._drop(_raw(dead))

    async def newest_first(self, after: str | None, batch: int) -> AsyncGenerator[Sequence[Member], None]:
        """Yield all members after a cursor, in batches.

        Each batch continues after the last entry of the one before, and not at its index, so that puts and deletes
        meanwhile hide none.

        Args:
            after: text of a cursor; None or any other text to begin with the newest.
            batch: size of a batch.
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
                batch *= 2  # more than a batch have the same score

    def _entries(self, reply: Sequence[tuple[bytes, float]]) -> _Entries:
        """Parse a reply of members with their scores."""
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
            check_write(self._servers, await run(self._servers, REMOVE_UNCHANGED, [self._key], arguments))

    async def _send(self, *commands: Any) -> list[Any]:
        return [check_reply(self._servers, reply) for reply in await self._servers.send(*commands)]


def _raw(members: Sequence[Member]) -> list[tuple[float, bytes]]:
    """Convert members to scores and names, as the index has them."""
    return [(member.score, member.key.id.encode()) for member in members]
