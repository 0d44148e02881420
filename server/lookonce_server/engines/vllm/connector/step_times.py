"""Time the work of vLLM's steps on contexts, in each worker, for benchmarks."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

_MAX_STEPS = 4096  # that are remembered until somebody asks

Part = Literal["load", "compress", "write"]


class StepTimes(NamedTuple):
    """What one step that loaded contexts, or completed captures, spent on them."""

    loads: int
    load_seconds: float  # reading the files, and writing to the paged cache
    captures: int
    compress_seconds: float  # scoring, choosing and packing what was captured
    write_seconds: float  # the results, to files
    step_seconds: float  # the whole step, the model's own work included


class StepClock:
    """Times steps; the last ones are kept until they are taken."""

    def __init__(self) -> None:
        self._steps: deque[StepTimes] = deque(maxlen=_MAX_STEPS)
        self.start_step()

    def start_step(self) -> None:
        """Begin a step."""
        self._started = time.perf_counter()
        self._seconds: dict[Part, list[float]] = {"load": [], "compress": [], "write": []}

    @contextmanager
    def timing(self, part: Part) -> Iterator[None]:
        """Add the time of the block to a part of the step."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part].append(time.perf_counter() - started)

    def end_step(self) -> None:
        """Keep the step's times if it loaded or captured anything."""
        loads, compressions, writes = (self._seconds[part] for part in ("load", "compress", "write"))
        if loads or compressions:
            step_seconds = time.perf_counter() - self._started
            self._steps.append(
                StepTimes(len(loads), sum(loads), len(compressions), sum(compressions), sum(writes), step_seconds)
            )

    def take(self) -> list[StepTimes]:
        """Return the times of the steps since this was last called, and forget them."""
        steps = list(self._steps)
        self._steps.clear()
        return steps
