"""Single flight: one describe pass an image, in this process and among all servers that share the store.

In this process a task for each image that is being described; among processes a lease in the store. A lease saves work
and guards nothing else: where the store cannot be asked, or its holder dies and it runs out, the pass is made again.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

from lookonce_cache import (
    CacheError,
    CompressedContext,
    ContextKey,
    ContextTooLargeError,
    Lease,
    LeaseLostError,
    State,
    Store,
    StoreUnavailableError,
    WritesRefusedError,
)
from lookonce_server.engines.base import Heard
from lookonce_server.errors import (
    ContextNotKeptError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    ServerError,
    ShuttingDownError,
)
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.text_broadcast import TextBroadcast

_log = logging.getLogger(__name__)

LEASE_SECONDS = 10.0  # how long a dead holder keeps others from describing
PATIENCE_SECONDS = 60.0  # for a describe pass that another question or server pays for
KEPT_LATER_SECONDS = 60.0  # for which a context is offered to a store that was away when it was made
KEPT_LATER = 16  # contexts at a time
HELD_OFF_SECONDS = 10.0  # after which an image is described again whose context the store did not keep
HELD_OFF_LONGER_SECONDS = 600.0  # the same, where it never could: it is too large
_POLL_SECONDS = (0.02, 0.5)  # between looks at a lease: the first, and the longest
_OFFER_SECONDS = (0.2, 2.0)  # between offers of a context to a store that was away

Make = Callable[[Heard], Awaitable[CompressedContext]]
OnceKept = Callable[[], Awaitable[None]]
_Pass = Callable[[], Awaitable[CompressedContext]]


class DescribeJob(NamedTuple):
    """A context on its way, in this process."""

    task: asyncio.Task[CompressedContext]
    progress: TextBroadcast  # of the describe pass; where somebody else makes the context, it never begins
    ttl: float | None  # seconds for which the context will be kept, None for as long as the store does
    after: asyncio.Event | None  # where nobody waits for it: what it waits for before it begins

    @property
    def has_begun(self) -> bool:
        """Whether the describe pass runs."""
        return self.progress.begun

    @property
    def is_next(self) -> bool:
        """Whether nobody waits for it, and it is only the engine's turn that it waits for."""
        return self.after is not None and self.after.is_set() and not self.has_begun


class _Wish(NamedTuple):
    """What a making is about; see `DescribeQueue.make`."""

    key: ContextKey
    make: _Pass
    ttl: float | None
    after: asyncio.Event | None
    must_keep: bool
    once_kept: OnceKept | None


class DescribeQueue:
    """Makes contexts, each once.

    Args:
        store: keeps them, and the leases.
        metrics: what is counted.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._making: dict[ContextKey, DescribeJob] = {}
        self._watching: dict[ContextKey, asyncio.Task[State | None]] = {}
        self._offering: dict[ContextKey, asyncio.Task[None]] = {}
        self._held_off: dict[ContextKey, float] = {}  # until when, in time.monotonic's seconds
        self._ending = False

    async def until_made(self, key: ContextKey) -> bool:
        """Wait while the context is being made, here or elsewhere; whether to look for it then.

        Its work is paid for already; patience ends all the same. False means that at this very moment nobody in this
        process makes it: until the caller awaits anything, it may be the one who does.
        """
        if key not in self._making and await self._is_kept_elsewhere(key):
            return True
        making = self._making.get(key)
        if making is None:
            return False
        self._metrics.waits.labels("process").inc()
        await asyncio.wait((making.task,), timeout=PATIENCE_SECONDS)
        return True

    def make(
        self,
        key: ContextKey,
        make: Make,
        *,
        ttl: float | None = None,
        after: asyncio.Event | None = None,
        must_keep: bool = False,
        once_kept: OnceKept | None = None,
    ) -> DescribeJob:
        """The one making of a context in this process.

        No pass is run for a context that the store says it would not keep; and none again, for some seconds, for one
        that it just did not: an image that is asked about without end would be described without end.

        Args:
            key: of the context.
            make: makes it, if nobody else does.
            ttl: seconds for which it is kept then.
            after: for a context that nobody waits for: the task waits for this before it does anything. Implies
                `must_keep`.
            must_keep: whether a context that is not kept is of no use: the task gives up where the store cannot be
                asked, since it would not keep the context either.
            once_kept: called when the store has the context that was made here.

        The task's errors are those of `make`, EngineError in place of any that is no ServerError; where it gave up,
        StoreUnavailableError, ContextNotKeptError because the store just did not keep it, or ShuttingDownError.
        """
        making = self._making.get(key)
        if making is None:
            progress = TextBroadcast()
            wish = _Wish(key, lambda: make(progress.hear), ttl, after, must_keep or after is not None, once_kept)
            task = asyncio.create_task(self._run(wish))
            making = self._making[key] = DescribeJob(task, progress, ttl, after)
            task.add_done_callback(lambda _: self._ended(key, making))
        return making

    def end(self) -> None:
        """Begin nothing more that nobody waits for, and drop what has not begun, but for what is next.

        What runs goes on; `is_busy` tells how long.
        """
        self._ending = True
        behind = [making for making in self._making.values() if making.after is not None and not making.has_begun]
        kept = [making for making in behind if making.is_next][:1]
        if any(making.has_begun for making in self._making.values()):
            kept = []
        for making in behind:
            if making not in kept:
                making.task.cancel()

    @property
    def is_busy(self) -> bool:
        """Whether a context is made, or still to be stored."""
        return bool(self._making or self._offering)

    async def close(self) -> None:
        """Abandon what is being made."""
        tasks: list[asyncio.Task[Any]] = [making.task for making in self._making.values()]
        tasks += [*self._watching.values(), *self._offering.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: ContextKey, making: DescribeJob) -> None:
        del self._making[key]
        making.progress.end()
        if not making.task.cancelled():
            making.task.exception()  # counted where it happened: it must not be reported as never retrieved

    async def _run(self, wish: _Wish) -> CompressedContext:
        if wish.after is not None:
            await wish.after.wait()
            if self._ending:
                raise ShuttingDownError("The server is shutting down: nothing more is described behind questions.")
        if self._is_held_off(wish.key):
            raise ContextNotKeptError(
                "The context was made a moment ago, and the store did not keep it: it has no room for it."
            )
        async with self._held(await self._turn(wish)) as lease:
            found = await self._kept(wish.key, wish.ttl)  # by somebody who was quicker
            return found or await self._made(wish, lease)

    async def _turn(self, wish: _Wish) -> Lease | None:
        """Wait until nobody else makes the context; the lease, None where the store cannot be asked for one."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        pauses = _pauses()
        while True:
            try:
                lease = await self._store.lease(wish.key, LEASE_SECONDS)
            except WritesRefusedError:
                raise
            except StoreUnavailableError:
                if wish.must_keep:
                    raise
                return None
            if lease is not None or time.monotonic() > deadline:
                return lease
            await asyncio.sleep(next(pauses))
            if await self._kept(wish.key, wish.ttl):
                return None

    async def _kept(self, key: ContextKey, ttl: float | None) -> CompressedContext | None:
        """The context, if the store has it by now."""
        if await self._state(key) == "kept":
            with contextlib.suppress(CacheError):
                found = await self._store.get(key, ttl=ttl)
                return found.context if found else None
        return None

    async def _made(self, wish: _Wish, lease: Lease | None) -> CompressedContext:
        key, started = wish.key, time.monotonic()
        try:
            context = await wish.make()
        except InvalidRequestError:  # it is the image, or the prompt, that cannot be used
            raise
        except Exception as error:
            self._metrics.describes.labels("refused" if isinstance(error, OverloadedError) else "failed").inc()
            expected = isinstance(error, ServerError)
            what = error if expected else type(error).__name__  # an unknown error's text may quote what was asked
            _log.warning("describe pass of %s: %s", key.id[:12], what, exc_info=not expected)
            if expected:
                raise
            raise EngineError(f"The describe pass failed: {type(error).__name__}.") from error
        # The lease is on the key that was looked for: see `ContextBuilder.describe` for a context that has another one.
        await self._keep_or_offer(context, wish, lease if context.key == key else None)
        self._metrics.describes.labels("done").inc()
        self._metrics.describe_seconds.observe(time.monotonic() - started)
        self._metrics.context_bytes.observe(context.nbytes)
        return context

    async def _keep_or_offer(self, context: CompressedContext, wish: _Wish, lease: Lease | None) -> None:
        """Store a context, now or later. One that cannot be stored still answers those who wait for it."""
        key = wish.key
        try:
            await self._keep(context, wish, lease)
        except CacheError as error:
            _log.warning("context %s was not stored: %s", key.id[:12], error)
            self._hold_off(key, error)
            is_away = isinstance(error, StoreUnavailableError) and not isinstance(error, WritesRefusedError)
            if is_away and lease is not None and len(self._offering) < KEPT_LATER:
                offering = self._offering[key] = asyncio.create_task(self._offer(context, wish, lease))
                offering.add_done_callback(lambda _: self._offering.pop(key, None))

    async def _keep(self, context: CompressedContext, wish: _Wish, lease: Lease | None) -> None:
        await self._store.put(context, lease, ttl=wish.ttl)
        if wish.once_kept is not None:
            await wish.once_kept()

    async def _offer(self, context: CompressedContext, wish: _Wish, lease: Lease) -> None:
        """Store a context once the store is back from a pause: a pass is not thrown away for that."""
        deadline = time.monotonic() + KEPT_LATER_SECONDS
        pauses = _pauses(*_OFFER_SECONDS)
        while time.monotonic() < deadline:
            await asyncio.sleep(next(pauses))
            try:
                await self._keep(context, wish, lease)
            except StoreUnavailableError:
                continue
            except CacheError as error:  # such as that somebody else was quicker
                _log.warning("context %s was not stored later either: %s", wish.key.id[:12], error)
            return

    def _hold_off(self, key: ContextKey, error: CacheError) -> None:
        """Do not describe the image again for a while: its context was not kept."""
        if isinstance(error, LeaseLostError):  # somebody else makes it, or it was deleted
            return
        now = time.monotonic()
        for old in [old for old, until in self._held_off.items() if until <= now]:
            del self._held_off[old]
        too_large = isinstance(error, ContextTooLargeError)
        self._held_off[key] = now + (HELD_OFF_LONGER_SECONDS if too_large else HELD_OFF_SECONDS)

    def _is_held_off(self, key: ContextKey) -> bool:
        return time.monotonic() < self._held_off.get(key, 0.0)

    @contextlib.asynccontextmanager
    async def _held(self, lease: Lease | None) -> AsyncIterator[Lease | None]:
        """Keeps a lease alive within the block, and ends it."""
        if lease is None:
            yield None
            return
        renewing = asyncio.create_task(self._renew(lease))
        try:
            yield lease
        finally:
            renewing.cancel()
            if lease.key not in self._offering:  # which goes by the lease
                with contextlib.suppress(CacheError):
                    await self._store.release(lease)

    async def _renew(self, lease: Lease) -> None:
        holds = True
        while holds:
            await asyncio.sleep(LEASE_SECONDS / 3)
            with contextlib.suppress(CacheError):
                holds = await self._store.renew(lease, LEASE_SECONDS)

    async def _is_kept_elsewhere(self, key: ContextKey) -> bool:
        """Wait while another process has the lease; whether the store has the context then."""
        state = await self._state(key)
        if state == "leased":
            self._metrics.waits.labels("replica").inc()
            watch = self._watching.get(key)
            if watch is None:  # one looks for all who wait here, and all go on at the same moment
                watch = self._watching[key] = asyncio.create_task(self._watch(key))
                watch.add_done_callback(lambda _: self._watching.pop(key))
            state = await asyncio.shield(watch)
        return state == "kept"

    async def _watch(self, key: ContextKey) -> State | None:
        """How it is with a context once its lease has ended, or patience has."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        pauses = _pauses()
        state: State | None = "leased"
        while state == "leased" and time.monotonic() < deadline:
            await asyncio.sleep(next(pauses))
            state = await self._state(key)
        return state

    async def _state(self, key: ContextKey) -> State | None:
        """See `Store.state`; None where the store does not tell."""
        with contextlib.suppress(CacheError):
            return await self._store.state(key)
        return None


def _pauses(first: float = _POLL_SECONDS[0], longest: float = _POLL_SECONDS[1]) -> Iterator[float]:
    """Seconds between looks at a store, spread so that many servers do not look at once."""
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1)  # noqa: S311
        pause = min(longest, pause * 2)
