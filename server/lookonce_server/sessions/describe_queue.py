"""Describe each image once, in this process and among all servers of a store.

In this process there is one job per image; among processes, one lease in the store. A lease saves work and guards
nothing else: if the store does not answer, or the lease's holder dies and it expires, the pass is run again.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from lookonce_cache import (
    CacheError,
    CompressedContext,
    ContextIdentity,
    ContextKey,
    ContextTooLargeError,
    Lease,
    LeaseLostError,
    State,
    Store,
    StoreUnavailableError,
    WritesRefusedError,
)
from lookonce_server.errors import (
    ContextNotKeptError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    ServerError,
    ShuttingDownError,
)
from lookonce_server.images.sources import ImageBytes
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.context_builder import ContextBuilder
from lookonce_server.sessions.image_store import ImageStore
from lookonce_server.sessions.text_broadcast import TextBroadcast
from lookonce_server.tracing.spans import span

_log = logging.getLogger(__name__)

LEASE_SECONDS = 10.0  # how long a dead holder keeps others from describing
LEASE_WAIT_SECONDS = 60.0  # for a describe pass of another question or server
STORE_RETRY_SECONDS = 60.0  # for which a context is offered to a store that was away
STORE_RETRIES = 16  # contexts that are offered at a time
BACKOFF_SECONDS = 10.0  # after which an image is described again whose context the store did not keep
TOO_LARGE_BACKOFF_SECONDS = 600.0  # the same for a context that is too large for the store
_POLL_SECONDS = (0.02, 0.5)  # between looks at a lease: the first, and the longest
_RETRY_SECONDS = (0.2, 2.0)  # between offers of a context to a store that was away


@dataclass(eq=False)
class DescribeJob:
    """A context that is being made, shared by all requests for it.

    Attributes:
        identity: of the context.
        image: the image that it is made of.
        ttl: seconds for which the context is kept, None for as long as the store does.
        start_after: of a job in the background, for which nobody waits: it starts once this is set.
        must_keep: whether a context that is not kept is of no use.
    """

    identity: ContextIdentity
    image: ImageBytes
    ttl: float | None
    start_after: asyncio.Event | None
    must_keep: bool
    key: ContextKey = field(init=False)
    task: asyncio.Task[CompressedContext] = field(init=False)
    _broadcast: TextBroadcast = field(init=False, default_factory=TextBroadcast)

    def __post_init__(self) -> None:
        self.key = self.identity.key()

    @property
    def has_started(self) -> bool:
        """Whether the describe pass has started here, not on another server."""
        return self._broadcast.has_started

    @property
    def is_next(self) -> bool:
        """Whether this is a job in the background that waits for the engine alone."""
        return self.start_after is not None and self.start_after.is_set() and not self.has_started

    def text(self) -> AsyncIterator[str]:
        """Yield the description as it is made; see `TextBroadcast.subscribe`."""
        return self._broadcast.subscribe()

    async def result(self) -> CompressedContext:
        """Wait for the context; cancelling the wait leaves the job running.

        Raises:
            InvalidImageError, PromptTooLongError, OverloadedError, EngineError: the describe pass failed.
            StoreUnavailableError, ContextNotKeptError: nothing was made, since the store would not keep it.
            ShuttingDownError: it had not started when the server was told to stop.
        """
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self.task.cancelled() and caller is not None and not caller.cancelling():
                raise ShuttingDownError("The server is shutting down: the image is not described any more.") from None
            raise


class DescribeQueue:
    """Run describe passes, one per image, and store their contexts.

    Args:
        store: keeps contexts and leases.
        builder: makes contexts.
        metrics: counts passes and waits.
        images: keeps the images of stored contexts; None keeps none.
    """

    def __init__(
        self, store: Store, builder: ContextBuilder, metrics: Metrics, images: ImageStore | None = None
    ) -> None:
        self._store = store
        self._builder = builder
        self._metrics = metrics
        self._images = images
        self._jobs: dict[ContextKey, DescribeJob] = {}
        self._watches: dict[ContextKey, asyncio.Task[State | None]] = {}
        self._retries: dict[ContextKey, asyncio.Task[None]] = {}
        self._backoff: dict[ContextKey, float] = {}  # until when, in time.monotonic's seconds
        self._ending = False

    async def wait(self, key: ContextKey, unless: asyncio.Event | None = None) -> bool:
        """Wait while a context is being made, here or elsewhere.

        The wait ends after LEASE_WAIT_SECONDS at the latest.

        Args:
            key: of the context.
            unless: ends the wait once it is set.

        Returns:
            Whether to look for it again. False means that no job in this process makes it at this very moment: until
            the caller awaits anything, it is the one to submit it.
        """
        if key not in self._jobs and await self._is_stored_elsewhere(key, unless):
            return True
        job = self._jobs.get(key)
        if job is None:
            return False
        self._metrics.waits.labels("process").inc()
        with span("wait for describe pass"):
            await _wait(job.task, unless)
        return True

    def submit(
        self,
        identity: ContextIdentity,
        image: ImageBytes,
        *,
        ttl: float | None = None,
        start_after: asyncio.Event | None = None,
        must_keep: bool = False,
    ) -> DescribeJob:
        """Return the job that makes a context, a new one unless there is one.

        No pass is run for a context that the store would not keep; nor, for some seconds, for one that it just did not
        keep: an image that is asked about without end would be described without end.

        Args:
            identity: of the context.
            image: the image that the identity is of.
            ttl: seconds for which the context is kept.
            start_after: makes it a job in the background, which starts once this is set. Implies `must_keep`.
            must_keep: give up if the store does not answer, since it would not keep the context either.
        """
        job = DescribeJob(identity, image, ttl, start_after, must_keep or start_after is not None)
        if job.key in self._jobs:
            return self._jobs[job.key]
        self._jobs[job.key] = job
        job.task = asyncio.create_task(self._run(job))
        job.task.add_done_callback(lambda _: self._remove(job))
        return job

    def end(self) -> None:
        """Start no more background jobs, and cancel those not started but the next.

        Passes that run go on; `is_busy` tells how long.
        """
        self._ending = True
        waiting = [job for job in self._jobs.values() if job.start_after is not None and not job.has_started]
        is_running = any(job.has_started for job in self._jobs.values())
        next_job = None if is_running else next((job for job in waiting if job.is_next), None)
        for job in waiting:
            if job is not next_job:
                job.task.cancel()

    @property
    def is_busy(self) -> bool:
        """Whether a context is being made, or still has to be stored."""
        return bool(self._jobs or self._retries)

    async def close(self) -> None:
        """Cancel all jobs."""
        tasks: list[asyncio.Task[Any]] = [job.task for job in self._jobs.values()]
        tasks += [*self._watches.values(), *self._retries.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _remove(self, job: DescribeJob) -> None:
        del self._jobs[job.key]
        job._broadcast.close()
        if not job.task.cancelled():
            job.task.exception()  # counted already; asyncio must not log it as never retrieved

    async def _run(self, job: DescribeJob) -> CompressedContext:
        if job.start_after is not None:
            await job.start_after.wait()
            if self._ending:
                raise ShuttingDownError("The server is shutting down: no image is described in the background.")
        if time.monotonic() < self._backoff.get(job.key, 0.0):
            raise ContextNotKeptError("The context was made a moment ago, and the store had no room to keep it.")
        async with self._renewed_lease(await self._acquire_lease(job)) as lease:
            context = await self._get_stored(job)  # another server may have been quicker
            return context or await self._describe(job, lease)

    async def _acquire_lease(self, job: DescribeJob) -> Lease | None:
        """Wait until no one else makes the context; None if there is no lease."""
        deadline = time.monotonic() + LEASE_WAIT_SECONDS
        pauses = _pauses(*_POLL_SECONDS)
        while True:
            try:
                lease = await self._store.lease(job.key, LEASE_SECONDS)
            except WritesRefusedError:
                raise
            except StoreUnavailableError:
                if job.must_keep:
                    raise
                return None
            if lease is not None or time.monotonic() > deadline:
                return lease
            job.image.decoding = None  # pixels are not held while another server describes
            await asyncio.sleep(next(pauses))
            if await self._get_stored(job):
                return None

    @contextlib.asynccontextmanager
    async def _renewed_lease(self, lease: Lease | None) -> AsyncIterator[Lease | None]:
        """Renew a lease within the block, and release it after the block."""
        if lease is None:
            yield None
            return
        renewing = asyncio.create_task(self._renew(lease))
        try:
            yield lease
        finally:
            renewing.cancel()
            if lease.key not in self._retries:  # which put the context under this lease
                with contextlib.suppress(CacheError):
                    await self._store.release(lease)

    async def _renew(self, lease: Lease) -> None:
        holds = True
        while holds:
            await asyncio.sleep(LEASE_SECONDS / 3)
            with contextlib.suppress(CacheError):
                holds = await self._store.renew(lease, LEASE_SECONDS)

    async def _get_stored(self, job: DescribeJob) -> CompressedContext | None:
        """Return the job's context if the store has it by now."""
        if await self._state(job.key) == "kept":
            with contextlib.suppress(CacheError):
                hit = await self._store.get(job.key, ttl=job.ttl)
                return hit.context if hit else None
        return None

    async def _describe(self, job: DescribeJob, lease: Lease | None) -> CompressedContext:
        started_at = time.monotonic()
        try:
            with span("describe image"):
                context = await self._builder.describe(job.identity, job.image, job._broadcast.publish)
        except InvalidRequestError:  # the image, or the prompt, cannot be used
            raise
        except Exception as error:
            self._metrics.describes.labels("refused" if isinstance(error, OverloadedError) else "failed").inc()
            is_known = isinstance(error, ServerError)
            reason = error if is_known else type(error).__name__  # an unknown error's text may quote the request
            _log.warning("describe pass of context %s failed: %s", job.key.id[:12], reason, exc_info=not is_known)
            if is_known:
                raise
            raise EngineError(f"The describe pass failed: {type(error).__name__}.") from error
        # The lease is for the job's key: see `ContextBuilder.describe` for a context that has another one.
        await self._put_or_retry(job, context, lease if context.key == job.key else None)
        self._metrics.describes.labels("done").inc()
        self._metrics.describe_seconds.observe(time.monotonic() - started_at)
        self._metrics.context_bytes.observe(context.nbytes)
        return context

    async def _put_or_retry(self, job: DescribeJob, context: CompressedContext, lease: Lease | None) -> None:
        """Store a context, now or later. One that is not stored still answers."""
        try:
            await self._put(job, context, lease)
        except CacheError as error:
            _log.warning("context %s was not stored: %s", job.key.id[:12], error)
            self._back_off(job.key, error)
            is_away = isinstance(error, StoreUnavailableError) and not isinstance(error, WritesRefusedError)
            if is_away and lease is not None and len(self._retries) < STORE_RETRIES:
                retry = self._retries[job.key] = asyncio.create_task(self._retry_put(job, context, lease))
                retry.add_done_callback(lambda _: self._retries.pop(job.key, None))

    async def _put(self, job: DescribeJob, context: CompressedContext, lease: Lease | None) -> None:
        with span("store context"):
            await self._store.put(context, lease, ttl=job.ttl)
            if self._images is not None:
                await self._images.put(job.key, job.image, job.ttl)

    async def _retry_put(self, job: DescribeJob, context: CompressedContext, lease: Lease) -> None:
        """Store a context once the store answers again, so that its pass was not in vain."""
        job.image.decoding = None  # only the encoded image may still be stored
        deadline = time.monotonic() + STORE_RETRY_SECONDS
        pauses = _pauses(*_RETRY_SECONDS)
        while time.monotonic() < deadline:
            await asyncio.sleep(next(pauses))
            try:
                await self._put(job, context, lease)
            except StoreUnavailableError:
                continue
            except CacheError as error:  # another server may have been quicker
                _log.warning("context %s was not stored later either: %s", job.key.id[:12], error)
            return

    def _back_off(self, key: ContextKey, error: CacheError) -> None:
        """Do not describe an image again for a while: its context was not kept."""
        if isinstance(error, LeaseLostError):  # another server makes it, or it was deleted
            return
        now = time.monotonic()
        self._backoff = {other: until for other, until in self._backoff.items() if until > now}
        is_too_large = isinstance(error, ContextTooLargeError)
        self._backoff[key] = now + (TOO_LARGE_BACKOFF_SECONDS if is_too_large else BACKOFF_SECONDS)

    async def _is_stored_elsewhere(self, key: ContextKey, unless: asyncio.Event | None) -> bool:
        """Wait while another process has the lease; return whether it stored."""
        state = await self._state(key)
        if state == "leased":
            self._metrics.waits.labels("replica").inc()
            watch = self._watches.get(key)
            if watch is None:  # one task polls for all who wait here, and all go on at the same moment
                watch = self._watches[key] = asyncio.create_task(self._watch(key))
                watch.add_done_callback(lambda _: self._watches.pop(key))
            await _wait(watch, unless)
            state = watch.result() if watch.done() else state
        return state == "kept"

    async def _watch(self, key: ContextKey) -> State | None:
        """Poll a context's state until its lease ends, or LEASE_WAIT_SECONDS do."""
        deadline = time.monotonic() + LEASE_WAIT_SECONDS
        pauses = _pauses(*_POLL_SECONDS)
        state: State | None = "leased"
        while state == "leased" and time.monotonic() < deadline:
            await asyncio.sleep(next(pauses))
            state = await self._state(key)
        return state

    async def _state(self, key: ContextKey) -> State | None:
        """See `Store.state`; None if the store does not answer."""
        with contextlib.suppress(CacheError):
            return await self._store.state(key)
        return None


async def _wait(task: asyncio.Task[Any], unless: asyncio.Event | None) -> None:
    """Wait for a task that others wait for too, LEASE_WAIT_SECONDS or until an event is set."""
    given_up = asyncio.create_task((unless or asyncio.Event()).wait())
    try:
        await asyncio.wait((task, given_up), timeout=LEASE_WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        given_up.cancel()


def _pauses(first: float, longest: float) -> Iterator[float]:
    """Yield growing pauses, spread so that servers do not poll at the same time."""
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1)  # noqa: S311
        pause = min(longest, pause * 2)
