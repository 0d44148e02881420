"""Text that arrives piece by piece: each class twice, for `for` and for `async for`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from ._readers import AnswerReader, Described, DescriptionReader, Reader, State
from ._types import Answer, Context

if TYPE_CHECKING:
    from ._transport import AsyncTransport, Transport

T = TypeVar("T")


class PieceStream(Iterator[str], Generic[T]):
    """The pieces of a text, in order. The question is sent when the first one is taken.

    Iterating to the end releases the connection; leave earlier through `close` or a `with` block.
    """

    def __init__(self, transport: Transport, reader: Reader[T]) -> None:
        self._transport = transport
        self._reader = reader
        self._pieces = self._read()

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; the server stops writing."""
        self._pieces.close()

    def _read(self) -> Generator[str, None, None]:
        response, piece = self._transport.run(self._reader.open())
        if piece:
            yield piece
        if response is not None:
            with self._transport.events(response) as events:
                for data in events:
                    if piece := self._reader.add(data):
                        yield piece
                    if self._reader.done:
                        break
        self._reader.end()


class AsyncPieceStream(AsyncIterator[str], Generic[T]):
    """As `PieceStream`, for `async for` and `async with`."""

    def __init__(self, transport: AsyncTransport, reader: Reader[T]) -> None:
        self._transport = transport
        self._reader = reader
        self._pieces = self._read()

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop reading; the server stops writing."""
        await self._pieces.aclose()

    async def _read(self) -> AsyncGenerator[str, None]:
        response, piece = await self._transport.run(self._reader.open())
        if piece:
            yield piece
        if response is not None:
            async with self._transport.events(response) as events:
                async for data in events:
                    if piece := self._reader.add(data):
                        yield piece
                    if self._reader.done:
                        break
        self._reader.end()


class _OfAnAnswer:
    _reader: Reader[Answer]

    @property
    def answer(self) -> Answer:
        """The whole answer; raises RuntimeError while pieces are still to come."""
        return self._reader.result


class _OfADescription:
    _reader: Reader[Described]

    @property
    def state(self) -> State:
        """What the server last said it does: `waiting` (nothing yet), `queued`, `describing` or `completed`."""
        assert isinstance(self._reader, DescriptionReader)
        return self._reader.state

    @property
    def context(self) -> Context:
        """The context; raises RuntimeError while pieces are still to come."""
        return self._reader.result.context

    @property
    def created(self) -> bool:
        """Whether the context was made while this request waited; False where it was there already."""
        return self._reader.result.created


class AnswerStream(_OfAnAnswer, PieceStream[Answer]):
    """The pieces of an answer; `answer` is the whole once the last one was taken."""

    def __init__(self, transport: Transport, reader: AnswerReader) -> None:
        super().__init__(transport, reader)


class AsyncAnswerStream(_OfAnAnswer, AsyncPieceStream[Answer]):
    """As `AnswerStream`, for `async for` and `async with`."""

    def __init__(self, transport: AsyncTransport, reader: AnswerReader) -> None:
        super().__init__(transport, reader)


class DescriptionStream(_OfADescription, PieceStream[Described]):
    """The pieces of an image's description, as the model generates it; `context` is there after the last one."""

    def __init__(self, transport: Transport, reader: DescriptionReader) -> None:
        super().__init__(transport, reader)


class AsyncDescriptionStream(_OfADescription, AsyncPieceStream[Described]):
    """As `DescriptionStream`, for `async for` and `async with`."""

    def __init__(self, transport: AsyncTransport, reader: DescriptionReader) -> None:
        super().__init__(transport, reader)
