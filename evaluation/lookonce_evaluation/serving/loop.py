"""A closed loop: so many who ask, each its next question when the last one is answered."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lookonce_evaluation.benching import Spread, Timing, measure
from lookonce_evaluation.serving.clock import StepTime
from lookonce_server.engines.base import Answer

Ask = Callable[[], Awaitable[Answer]]


@dataclass
class Cell:
    """What one way took at one concurrency, over all rounds."""

    timings: list[Timing] = field(default_factory=list)
    steps: list[StepTime] = field(default_factory=list)
    seconds: float = 0.0  # in which they were all answered

    def as_json(self) -> dict[str, Any]:
        """Times in milliseconds."""
        return {
            "answers": len(self.timings),
            "first_token_ms": Spread.of(1000 * one.first_token for one in self.timings)._asdict(),
            "answer_ms": Spread.of(1000 * one.total for one in self.timings)._asdict(),
            "requests_per_s": len(self.timings) / self.seconds,
            "tokens_per_s": sum(one.tokens for one in self.timings) / self.seconds,
            "computed_tokens": Spread.of(one.computed for one in self.timings).median,
        }


async def closed_loop(asks: Sequence[Ask], concurrency: int, cell: Cell) -> None:
    """Have all questions asked and answered; the answers are added in their order."""
    answered: list[Timing | None] = [None] * len(asks)
    left = iter(enumerate(asks))

    async def asker() -> None:
        for index, ask in left:
            answered[index] = await measure(ask(), time.perf_counter())

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(asker())
    cell.seconds += time.perf_counter() - started
    cell.timings += [one for one in answered if one is not None]
