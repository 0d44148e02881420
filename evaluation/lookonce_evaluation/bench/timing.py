"""Time answers and describe passes, and summarize figures."""

import statistics
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from lookonce_cache import DEFAULT_TENANT
from lookonce_server.engines.base import Answer, DescribePlan, Engine, Started
from lookonce_server.images.decode import ImageLimits, decode_image

Ask = Callable[[], Awaitable[Answer]]
"""Sends a question that is prepared."""


class AnswerTimes(NamedTuple):
    """One answer; times in seconds."""

    first_token: float
    total: float
    tokens: int  # generated
    computed_tokens: int  # of the prompt, that were run through the model
    text: str


class DescribeTimes(NamedTuple):
    """One describe pass; times in seconds."""

    tokens: int  # of the description
    generate: float  # the description
    capture: float  # what follows: the embedded engine packs the context, vLLM prefills once more to capture it

    @property
    def total(self) -> float:
        """The whole pass."""
        return self.generate + self.capture


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some figures and how far they lie apart."""

    median: float
    quartiles: float  # their distance
    p90: float
    number: int

    @classmethod
    def of(cls, figures: Iterable[float]) -> "Spread":
        """Return the spread of one figure or more."""
        values = list(figures)
        if len(values) == 1:
            return cls(values[0], 0.0, values[0], 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        p90 = statistics.quantiles(values, n=10, method="inclusive")[-1]
        return cls(median, high - low, p90, len(values))

    @classmethod
    def of_seconds(cls, seconds: Iterable[float]) -> "Spread":
        """Return the spread of times, in milliseconds."""
        return cls.of(1000 * time for time in seconds)

    def __format__(self, spec: str) -> str:
        """Format the median and half of the quartiles' distance."""
        spec = spec or ".1f"
        return f"{self.median:{spec}} ± {self.quartiles / 2:{spec}}"


async def time_answer(ask: Ask) -> AnswerTimes:
    """Ask, and time the answer to its end."""
    started = time.perf_counter()
    first_token, tokens, computed_tokens, text = 0.0, 0, 0, ""
    async for event in await ask():
        if isinstance(event, Started):
            computed_tokens = event.computed_tokens
            continue
        first_token = first_token or time.perf_counter() - started
        tokens += event.tokens
        text += event.text
    return AnswerTimes(first_token, time.perf_counter() - started, tokens, computed_tokens, text)


async def time_describe(engine: Engine, image: bytes, plan: DescribePlan) -> DescribeTimes:
    """Describe an image, and time the pass by what it tells of its progress."""
    token_times: list[float] = []  # the first one is of the pass's beginning
    pixels = decode_image(image, ImageLimits(), "image")
    started = time.perf_counter()
    await engine.describe(pixels, plan, DEFAULT_TENANT, lambda _: token_times.append(time.perf_counter()))
    ended = time.perf_counter()
    return DescribeTimes(len(token_times) - 1, token_times[-1] - started, ended - token_times[-1])
