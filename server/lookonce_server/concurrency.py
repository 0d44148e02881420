"""Run coroutines at once."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_in_order(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines at once; return their results in order.

    The first error in order is raised, not the first in time, so that the same request always gets the same error.
    When this ends, for whatever reason, no coroutine is left running.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
