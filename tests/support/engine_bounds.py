"""How many passes an engine takes on: the same checks for every engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest

from lookonce_cache import CompressedContext
from lookonce_server.engines.base import Engine, Sampling
from lookonce_server.errors import OverloadedError

from .samples import PLAN, TENANT, about, picture

MAX_QUEUE = 2
LONG = Sampling(max_tokens=200)


async def _events(answer: AsyncIterator) -> None:
    async for _ in answer:
        pass


async def _submitted(*works: Awaitable) -> list[asyncio.Task]:
    """Tasks whose passes are admitted, or refused: engines do it before they wait for anything."""
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def _describes(engine: Engine, count: int) -> list[Awaitable]:
    return [engine.describe(picture(31), PLAN, TENANT) for _ in range(count)]


async def check_bounds(engine: Engine, context: CompressedContext, admission) -> None:
    """Check that questions and describe passes have places of their own, given back when a pass is cancelled.

    Args:
        engine: idle.
        context: that it made.
        admission: the engine's.
    """
    admission.max_queue = MAX_QUEUE
    behind = await _submitted(*_describes(engine, MAX_QUEUE + 1))
    with pytest.raises(OverloadedError, match="2 describe passes are in work"):
        await behind.pop()
    questions = await _submitted(
        _events(engine.full(about("What is there?"), [picture(31)], LONG, TENANT)),
        _events(engine.answer([context], about("What is there?"), LONG)),
        _events(engine.answer([context], about("What is there?"), LONG)),
    )
    with pytest.raises(OverloadedError, match="2 requests are in work"):
        await questions.pop()
    assert engine.queue_depth == sum(engine.passes) == 2 * MAX_QUEUE
    assert sum(engine.passes[2:]) == MAX_QUEUE
    for task in (*behind, *questions):
        task.cancel()
    await asyncio.wait([*behind, *questions])
    assert engine.queue_depth == 0
    assert len(await asyncio.gather(*_describes(engine, MAX_QUEUE))) == MAX_QUEUE
