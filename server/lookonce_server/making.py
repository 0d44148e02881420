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
from typing import NamedTuple

from lookonce_cache import (
    CacheError,
    CompressedContext,
    ContextKey,
    Lease,
    State,
    Store,
    StoreUnavailableError,
)
from lookonce_server.engines.base import Heard
from lookonce_server.errors import EngineError, InvalidRequestError, OverloadedError, ServerError
from lookonce_server.metrics import Metrics
from lookonce_server.progress import Progress

_log = logging.getLogger(__name__)

LEASE_SECONDS = 10.0  # how long a dead holder keeps others from describing
PATIENCE_SECONDS = 60.0  # for a describe pass that another question or server pays for
_POLL_SECONDS = (0.02, 0.5)  # between looks at a lease: the first, and the longest

Make = Callable[[Heard], Awaitable[CompressedContext]]
OnceKept = Callable[[], Awaitable[None]]
_Pass = Callable[[], Awaitable[CompressedContext]]


class Making(NamedTuple):
    """A context on its way, in this process."""

    task: asyncio.Task[CompressedContext]
    progress: Progress  # of the describe pass; where somebody else makes the context, it never begins
    ttl: float | None  # seconds for which the context will be kept, None for as long as the store does


class Maker:
    """Makes contexts, each once.

    Args:
        store: keeps them, and the leases.
        metrics: what is counted.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._making: dict[ContextKey, Making] = {}
        self._watching: dict[ContextKey, asyncio.Task[State | None]] = {}

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
        once_kept: OnceKept | None = None,
    ) -> Making:
        """The one making of a context in this process.

        Args:
            key: of the context.
            make: makes it, if nobody else does.
            ttl: seconds for which it is kept then.
            after: for a context that nobody waits for: the task waits for this before it does anything, and gives up
                where the store cannot be asked, since it would not keep the context either.
            once_kept: called when the store has the context that was made here.

        The task's errors are those of `make`, EngineError in place of any that is no ServerError, and
        StoreUnavailableError where it gave up.
        """
        making = self._making.get(key)
        if making is None:
            progress = Progress()
            task = asyncio.create_task(self._run(key, lambda: make(progress.hear), ttl, after, once_kept))
            making = self._making[key] = Making(task, progress, ttl)
            task.add_done_callback(lambda _: self._ended(key, making))
        return making

    async def close(self) -> None:
        """Abandon what is being made."""
        tasks = [*(making.task for making in self._making.values()), *self._watching.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: ContextKey, making: Making) -> None:
        del self._making[key]
        making.progress.end()
        if not making.task.cancelled():
            making.task.exception()  # counted where it happened: it must not be reported as never retrieved

    async def _run(
        self,
        key: ContextKey,
        make: _Pass,
        ttl: float | None,
        after: asyncio.Event | None,
        once_kept: OnceKept | None,
    ) -> CompressedContext:
        if after is not None:
            await after.wait()
        async with self._held(await self._turn(key, ttl, give_up=after is not None)) as lease:
            found = await self._kept(key, ttl)  # by somebody who was quicker
            return found or await self._made(key, make, lease, ttl, once_kept)

    async def _turn(self, key: ContextKey, ttl: float | None, *, give_up: bool) -> Lease | None:
        """Wait until nobody else makes the context; the lease, None where the store cannot be asked for one."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        pauses = _pauses()
        while True:
            try:
                lease = await self._store.lease(key, LEASE_SECONDS)
            except StoreUnavailableError:
                if give_up:
                    raise
                return None
            if lease is not None or time.monotonic() > deadline:
                return lease
            await asyncio.sleep(next(pauses))
            if await self._kept(key, ttl):
                return None

    async def _kept(self, key: ContextKey, ttl: float | None) -> CompressedContext | None:
        """The context, if the store has it by now."""
        if await self._state(key) == "kept":
            with contextlib.suppress(CacheError):
                found = await self._store.get(key, ttl=ttl)
                return found.context if found else None
        return None

    async def _made(
        self, key: ContextKey, make: _Pass, lease: Lease | None, ttl: float | None, once_kept: OnceKept | None
    ) -> CompressedContext:
        started = time.monotonic()
        try:
            context = await make()
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
        # One that cannot be stored still answers those who wait for it.
        try:
            # The lease is on the key that was looked for: see `Describer.describe` for a context that has another one.
            await self._store.put(context, lease if context.key == key else None, ttl=ttl)
            if once_kept is not None:
                await once_kept()
        except CacheError as error:
            _log.warning("context %s was not stored: %s", key.id[:12], error)
        self._metrics.describes.labels("done").inc()
        self._metrics.describe_seconds.observe(time.monotonic() - started)
        self._metrics.context_bytes.observe(context.nbytes)
        return context

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


def _pauses() -> Iterator[float]:
    """Seconds between looks at a lease, spread so that many servers do not look at once."""
    pause, longest = _POLL_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1)  # noqa: S311
        pause = min(longest, pause * 2)
