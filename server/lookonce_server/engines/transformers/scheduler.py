"""Run passes in one thread, a step at a time: fair, bounded, cancellable.

A pass is a generator that yields after every forward of the model. The passes in work take turns, so a short answer
never waits for a long one to end. Those that ask for what can be computed for several at once have their turn together:
the one that comes first takes the others along. Background passes run one after the other, when nobody waits. While
others are in work a background pass first lets a short answer end, then gets a turn every few, so that it is never
starved.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from lookonce_server.engines.admission import Admission
from lookonce_server.engines.base import is_last
from lookonce_server.errors import EngineEndedError, EngineError, ServerError
from lookonce_server.tracing.spans import phases

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Batched(NamedTuple):
    """An event, and a request to the batch: `yield` gives the pass the result."""

    event: Any
    request: Any


class _Done:
    """The end of a pass's events, with the error that ended it, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Pass(Generic[T]):
    """A submitted pass and its way back to the event loop."""

    def __init__(self, work: Iterator[T | Batched], *, background: bool) -> None:
        self.work = work
        self.background = background
        self.begun = False  # its first step has been taken
        self.begun_at = 0.0  # monotonic
        self.request: Any = None  # to the batch
        self.cancelled = False
        self.events: asyncio.Queue[T | _Done] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def post(self, event: "T | _Done") -> None:
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self.cancelled = True


class PassScheduler:
    """Run passes in a thread of its own.

    Args:
        max_running: passes in work at once: each holds a KV cache.
        max_queue: passes of each kind, see `Admission`.
        background_after: turns of others that a background pass lets go before it asks for its own.
        background_every: from then on, while others are in work, every how many turns it gets one.
        compute: answers the requests of `Batched`, in their order; an error among the results ends that pass alone.
    """

    def __init__(
        self,
        *,
        max_running: int,
        max_queue: int,
        background_after: int = 32,
        background_every: int = 4,
        compute: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
    ) -> None:
        self.admission = Admission(max_queue)
        self._max_running = max_running
        self._background_after = background_after
        self._background_every = background_every
        self._passed_over = 0  # turns of others since the first background pass came to its place
        self._waiting: deque[_Pass[object]] = deque()
        self._running: deque[_Pass[object]] = deque()
        self._background: deque[_Pass[object]] = deque()
        self._turn = 0
        self._compute = compute
        self._current: list[_Pass[object]] = []  # are in the middle of a step
        self._closed = False
        self._ended = False  # without having been told to
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="lookonce-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Tell whether passes are run."""
        return self._thread.is_alive() and not self._ended

    async def run(
        self, work: Iterator[T | Batched], *, background: bool = False, steps: Sequence[str] = ("run",)
    ) -> AsyncGenerator[T]:
        """Yield the events of a pass, as they come.

        Closing the iterator gives the pass's place back at once. A pass that has begun ends at its next step, and one
        that has not never begins.

        Args:
            work: the pass; it yields after each step.
            background: whether it runs when nobody waits.
            steps: what a trace calls the time until the first event, the next one, and so on; the last one is the rest.

        Raises:
            OverloadedError: the queue is full.
            EngineError: the pass failed with an error that is not ours; it is logged.
            EngineEndedError: the thread has ended.
        """
        with self.admission.admit(background=background) as place:
            submitted: _Pass[T] = _Pass(work, background=background)
            self._submit(submitted)
            try:
                with phases("queue", *steps) as trace:
                    while not isinstance(event := await submitted.events.get(), _Done):
                        place.run()
                        trace.leave("queue", submitted.begun_at)
                        trace.advance()
                        if trace.is_on and is_last(event):
                            trace.finish()
                        yield event
                    if event.error is not None:
                        raise event.error
            finally:
                self._cancel(submitted)

    def close(self) -> None:
        """End the thread after its current step; the passes left get EngineError."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        self._end_all(EngineError("The server is shutting down."))

    def _submit(self, submitted: _Pass[T]) -> None:
        with self._wake:
            if self._closed:
                raise EngineError("The server is shutting down.")
            if self._ended:
                raise EngineEndedError
            queue = self._background if submitted.background else self._waiting
            queue.append(submitted)  # type: ignore[arg-type]
            self._wake.notify()

    def _cancel(self, submitted: _Pass[T]) -> None:
        """Drop a pass that has not begun; another one ends at its next step."""
        submitted.cancelled = True
        with self._wake, contextlib.suppress(ValueError):
            if not submitted.begun:
                (self._background if submitted.background else self._waiting).remove(submitted)  # type: ignore[arg-type]

    def _run(self) -> None:
        """Run passes, and tell everything that waits if they end."""
        try:
            self._run_passes()
        except BaseException as error:
            _log.critical("the engine's thread has ended", exc_info=error)
            with self._wake:
                self._ended = True
            self._end_all(EngineEndedError())

    def _end_all(self, error: EngineError) -> None:
        for left in (*self._current, *self._waiting, *self._running, *self._background):
            left.post(_Done(error))

    def _run_passes(self) -> None:
        while current := self._next():
            ends = self._step_together(current)
            with self._wake:
                self._current = []
                for one, end in zip(current, ends, strict=True):
                    self._put_back(one, end)
            for one, end in zip(current, ends, strict=True):
                if end is not None:
                    one.post(end)

    def _put_back(self, stepped: _Pass[object], end: _Done | None) -> None:
        if end is not None and stepped.background:
            self._passed_over = 0
        if end is None and stepped.background:
            self._background.appendleft(stepped)  # one at a time: each holds a KV cache
        elif end is None:
            self._running.append(stepped)

    def _next(self) -> "list[_Pass[object]]":
        """Take the passes whose turn it is out of their queue; none at the end."""
        with self._wake:
            while not (self._closed or self._waiting or self._running or self._background):
                self._wake.wait()
            if self._closed:
                return []
            while self._waiting and len(self._running) < self._max_running:
                self._running.append(self._waiting.popleft())
            self._turn += 1
            if self._background and self._background_is_due():
                self._current = [self._background.popleft()]
            else:
                self._current = self._take_running()
            for one in self._current:
                one.begun_at = one.begun_at if one.begun else time.monotonic()
                one.begun = True
            return self._current

    def _take_running(self) -> "list[_Pass[object]]":
        """Take the first pass, and with one that asks the batch all others that do."""
        first = self._running.popleft()
        if first.request is None:
            return [first]
        asking = [one for one in self._running if one.request is not None]
        self._running = deque(one for one in self._running if one.request is None)
        return [first, *asking]

    def _background_is_due(self) -> bool:
        if not self._running or self._background[0].cancelled:
            return True
        self._passed_over += 1
        return self._passed_over > self._background_after and self._turn % self._background_every == 0

    def _step_together(self, current: "list[_Pass[object]]") -> list[_Done | None]:
        """Answer what passes ask the batch, and take a step of each; see `_step`."""
        asking = [one for one in current if one.request is not None and not one.cancelled]
        requests = [one.request for one in asking]
        results = dict(zip(asking, self._compute(requests), strict=True)) if self._compute and asking else {}
        return [self._step(one, results.get(one)) for one in current]

    def _step(self, current: _Pass[object], result: Any) -> _Done | None:
        """Take one step of a pass; return its end if that was the last one."""
        work: Any = current.work
        try:
            if current.cancelled:
                work.close()
                return _Done(None)
            if isinstance(result, Exception):
                event = work.throw(result)
            else:
                event = next(work) if result is None else work.send(result)
            event, current.request = event if isinstance(event, Batched) else (event, None)
            current.post(event)
        except StopIteration:
            return _Done(None)
        except ServerError as error:
            return _Done(error)
        except torch.AcceleratorError:  # it can compute nothing more in this process, for anybody
            raise
        except Exception as error:
            _log.exception("a pass failed")
            return _Done(EngineError(f"The engine failed: {type(error).__name__}."))
        return None
