"""Describe queues whose passes a test starts and ends."""

import asyncio
from collections.abc import Awaitable

from lookonce_cache import CompressedContext, ContextKey, Lease, Store
from lookonce_server.images.sources import ImageBytes
from lookonce_server.sessions.describe_queue import DescribeJob, DescribeQueue


class Builder:
    """A context builder whose passes end when they are told to, and are counted.

    Args:
        context: that it makes.
        starts: whether an engine runs its passes at once, or lets them wait.
    """

    def __init__(self, context: CompressedContext, *, starts: bool = False) -> None:
        self.context = context
        self.starts = starts
        self.passes = 0
        self.is_cancelled = False
        self.is_under_way = asyncio.Event()
        self.may_end = asyncio.Event()

    async def describe(self, identity, image, on_text) -> CompressedContext:
        self.passes += 1
        if self.starts:
            on_text("")
        self.is_under_way.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        return self.context


class Builders:
    """A context builder that leaves each context to one of these."""

    def __init__(self, *builders: Builder) -> None:
        self.builders = {builder.context.identity: builder for builder in builders}

    async def describe(self, identity, image, on_text) -> CompressedContext:
        return await self.builders[identity].describe(identity, image, on_text)


def submit(queue: DescribeQueue, context: CompressedContext, **options) -> DescribeJob:
    return queue.submit(context.identity, ImageBytes(b"", "image"), **options)


def is_due() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


def counted(queue: DescribeQueue, name: str, **labels: str) -> float:
    return queue._metrics.registry.get_sample_value(f"lookonce_{name}", labels) or 0.0


async def waits(queue: DescribeQueue, where: str, count: int) -> None:
    """Return once so many have begun to wait."""
    while counted(queue, "describe_waits_total", where=where) < count:  # noqa: ASYNC110 - it tells no event
        await asyncio.sleep(0.001)


async def leased_elsewhere(store: Store, key: ContextKey, seconds: float = 60) -> Lease:
    lease = await store.lease(key, seconds)
    assert lease is not None
    return lease


async def all_of(work: list[Awaitable]) -> list:
    async with asyncio.timeout(20):
        return await asyncio.gather(*work)
