"""The answers to one question: started together, read at the same time."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, Self

from lookonce_server.engines.base import Answer, Piece, Started
from lookonce_server.errors import EngineError


class StartedAnswer(NamedTuple):
    """A started answer: read its `events`, or close `rest`."""

    first: tuple[Started | Piece, ...]
    rest: Answer

    def events(self, change: Callable[[Started | Piece], Started | Piece] = lambda event: event) -> Answer:
        """Yield all events of the answer, each as `change` makes it."""
        return _Events(self, change)


class _Events(AsyncGenerator[Started | Piece]):
    """All events of a started answer.

    Closing it closes the answer, whether anything was read or not; a generator function that has not begun would not.
    """

    def __init__(self, answer: StartedAnswer, change: Callable[[Started | Piece], Started | Piece]) -> None:
        self._first = deque(answer.first)
        self._rest = answer.rest
        self._change = change

    async def asend(self, value: None) -> Started | Piece:
        """Return the next event."""
        return self._change(self._first.popleft() if self._first else await anext(self._rest))

    async def athrow(self, *error: Any) -> Started | Piece:
        """Close the answer, and raise the error."""
        self._first.clear()
        await self._rest.aclose()
        raise error[0]


async def start_answers(answers: Sequence[Answer], events: int = 1) -> tuple[StartedAnswer, ...]:
    """Start answers, and take up to `events` first events of each.

    Raises:
        BaseException: what kept one of them from starting; all are closed then.
    """
    try:
        results = await asyncio.gather(*(_take(answer, events) for answer in answers), return_exceptions=True)
        if failed := [result for result in results if isinstance(result, BaseException)]:
            raise failed[0]
    except BaseException:
        await asyncio.gather(*(answer.aclose() for answer in answers))
        raise
    firsts = [result for result in results if not isinstance(result, BaseException)]
    return tuple(StartedAnswer(first, answer) for first, answer in zip(firsts, answers, strict=True))


async def _take(answer: Answer, count: int) -> tuple[Started | Piece, ...]:
    events: list[Started | Piece] = []
    while len(events) < count:
        try:
            events.append(await anext(answer))
        except StopAsyncIteration:
            break
    return tuple(events)


class AnswerStreams:
    """Read several answers at once: `start` first, then iterate over the pieces.

    Invariant: once this is closed no task is left, and every answer is closed. The first error is raised to the reader,
    which then closes this.

    Args:
        answers: none of them started.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._events: asyncio.Queue[tuple[int, Started | Piece | Exception]] = asyncio.Queue()
        self._early: deque[tuple[int, Piece]] = deque()  # pieces that came before every answer had started
        self._answers = answers
        self._readers = [asyncio.create_task(self._read(i, answer)) for i, answer in enumerate(answers)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> tuple[Started, ...]:
        """Return the first event of every answer, or raise the first error."""
        started: dict[int, Started] = {}
        while len(started) < len(self._readers):
            index, event = await self._next()
            if isinstance(event, Started):
                started[index] = event
            else:
                self._early.append((index, event))
        return tuple(started[i] for i in range(len(self._readers)))

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        """Yield (answer's number, piece) as pieces come, up to the end of the last answer."""
        unfinished = len(self._readers)
        while unfinished:
            index, piece = self._early.popleft() if self._early else await self._next()
            assert isinstance(piece, Piece)
            unfinished -= piece.finish_reason is not None
            yield index, piece

    async def close(self) -> None:
        """Stop the answers that are still running."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        await asyncio.gather(*(answer.aclose() for answer in self._answers))  # a reader may not have begun

    async def _next(self) -> tuple[int, Started | Piece]:
        index, event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return index, event

    async def _read(self, index: int, answer: Answer) -> None:
        reason = None
        try:
            async with contextlib.aclosing(answer):
                async for event in answer:
                    reason = event.finish_reason if isinstance(event, Piece) else None
                    self._events.put_nowait((index, event))
            if reason is None:
                raise EngineError("An answer ended before it was finished.")
        except Exception as error:
            self._events.put_nowait((index, error))
