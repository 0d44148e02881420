"""The answers to one question: begun, and read at once."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Self

from lookonce_server.engines.base import Answer, Piece, Started
from lookonce_server.errors import EngineError


class Begun(NamedTuple):
    """An answer whose first events are at hand; whoever has it reads `whole`, or closes `rest`."""

    events: tuple[Started | Piece, ...]
    rest: Answer

    async def whole(self, change: Callable[[Started | Piece], Started | Piece] = lambda event: event) -> Answer:
        """All of the answer, those events included, each as `change` makes it."""
        async with contextlib.aclosing(self.rest):
            for event in self.events:
                yield change(event)
            async for event in self.rest:
                yield change(event)


async def begun(answers: Sequence[Answer], events: int = 1) -> tuple[Begun, ...]:
    """The same answers, each with its first events at hand: as many as that, or all where it has less.

    Raises:
        BaseException: what kept one of them from beginning; all are closed then.
    """
    try:
        firsts = await asyncio.gather(*(_taken(answer, events) for answer in answers), return_exceptions=True)
        if failed := [first for first in firsts if isinstance(first, BaseException)]:
            raise failed[0]
    except BaseException:
        await asyncio.gather(*(answer.aclose() for answer in answers))
        raise
    taken = [first for first in firsts if not isinstance(first, BaseException)]
    return tuple(Begun(first, answer) for first, answer in zip(taken, answers, strict=True))


async def _taken(answer: Answer, count: int) -> tuple[Started | Piece, ...]:
    events: list[Started | Piece] = []
    while len(events) < count:
        try:
            events.append(await anext(answer))
        except StopAsyncIteration:
            break
    return tuple(events)


class Answers:
    """Reads answers at once, each in a task of its own: `begin` first, then iterate over the pieces.

    Invariant: once this is closed no task is left, and every answer is closed. The first error is raised to whoever
    reads, and it is theirs to close.

    Args:
        answers: none of them begun.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._events: asyncio.Queue[tuple[int, Started | Piece | Exception]] = asyncio.Queue()
        self._early: deque[tuple[int, Piece]] = deque()  # what came before every answer had begun
        self._readers = [asyncio.create_task(self._read(i, answer)) for i, answer in enumerate(answers)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def begin(self) -> tuple[Started, ...]:
        """The first event of every answer; what keeps one of them from beginning is raised here."""
        begun: dict[int, Started] = {}
        while len(begun) < len(self._readers):
            index, event = await self._next()
            if isinstance(event, Started):
                begun[index] = event
            else:
                self._early.append((index, event))
        return tuple(begun[i] for i in range(len(self._readers)))

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        """The pieces of all answers as they come, each with its answer's number, up to the end of the last answer."""
        left = len(self._readers)
        while left:
            index, piece = self._early.popleft() if self._early else await self._next()
            assert isinstance(piece, Piece)
            left -= piece.finish_reason is not None
            yield index, piece

    async def close(self) -> None:
        """Stop what still runs."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

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
