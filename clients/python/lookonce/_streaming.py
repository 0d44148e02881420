"""Read answers and descriptions piece by piece, with `for` and with `async for`."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Self, TypeVar

from . import _requests
from ._exceptions import APIResponseError, stream_error
from ._image import Image
from ._images import Asked, Images
from ._reference import SentImages
from ._server import Flow
from ._types import Answer, AskOptions, Context

if TYPE_CHECKING:
    import httpx2

    from ._transport import AsyncTransport, Transport

T = TypeVar("T")
State = Literal["waiting", "queued", "describing", "completed"]
_DONE = "[DONE]"
_STATES: Mapping[Any, State] = {"context.queued": "queued", "context.describing": "describing"}


class OpenStream(NamedTuple):
    """A stream that has begun."""

    response: httpx2.Response | None  # to read events from; None if everything is known already
    piece: str = ""  # text that was there at once


class Reader(ABC, Generic[T]):
    """Turn one stream's events into text and a result.

    Call `open`, then `add` until `is_done`, then `finish`; `result` is there from then on.
    """

    def __init__(self) -> None:
        self.is_done = False
        self._result: T | None = None
        self._response: httpx2.Response | None = None

    @abstractmethod
    def open(self) -> Flow[OpenStream]:
        """Request the stream."""

    @abstractmethod
    def _read(self, event: Any) -> str:
        """Read an event and return its text; ValueError or the like if it is malformed."""

    @abstractmethod
    def _build_result(self) -> T:
        """Build the result from all events."""

    def add(self, data: str) -> str:
        """Read an event and return its text; raises APIStatusError for an error event."""
        if data == _DONE:
            self.is_done = True
            return ""
        try:
            event = json.loads(data)
            error = event.get("error")
            if error is None:
                return self._read(event)
            message = error.get("message")  # an error object has one
        except (ValueError, LookupError, TypeError, AttributeError) as malformed:
            raise _requests.unexpected_reply("a piece of a stream", malformed) from malformed
        assert self._response is not None
        raise stream_error(self._response, {**error, "message": message})

    def finish(self) -> None:
        """Build the result; raises APIResponseError if the stream broke off."""
        if not self.is_done:
            raise APIResponseError("the stream ended before it was complete")
        self._result = self._build_result()

    @property
    def result(self) -> T:
        """The result; raises RuntimeError while pieces are still to come."""
        if self._result is None:
            raise RuntimeError("the stream is not complete; take every piece of it first")
        return self._result


class AnswerReader(Reader[Answer]):
    """Read a streamed answer.

    Args:
        images: the images of the session.
        turns: the question, and the turns of the conversation before it.
        options: the options of the question.
        on_answer: called with the complete answer.
    """

    def __init__(
        self,
        images: Images,
        turns: Asked,
        options: AskOptions,
        on_answer: Callable[[Answer], None] = lambda answer: None,
    ) -> None:
        super().__init__()
        _requests.check_options(options, AskOptions)
        self._images, self._turns, self._options = images, turns, options
        self._on_answer = on_answer
        self._text = ""
        self._extension: Mapping[str, Any] = {}
        self._usage: Mapping[str, Any] | None = None
        self._sent = SentImages([])

    def open(self) -> Flow[OpenStream]:
        """Ask the question."""
        self._started = time.perf_counter()
        reply = yield from self._images.stream(self._turns, self._options)
        self._response, self._sent = reply.result, reply.images
        return OpenStream(self._response)

    def _read(self, event: Any) -> str:
        if extension := event.get("lookonce"):
            self._extension = extension
            self._sent.set_contexts(_requests.parse_usages(extension))
        self._usage = event.get("usage") or self._usage
        piece = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        self._text += piece
        return piece

    def _build_result(self) -> Answer:
        seconds = time.perf_counter() - self._started
        try:
            answer = _requests.build_answer(self._text, self._extension, self._usage, seconds)
        except (KeyError, TypeError, AttributeError) as error:
            raise _requests.unexpected_reply("a streamed answer", error) from error
        self._images.add_answer(answer, self._sent)
        self._on_answer(answer)
        return answer


class Description(NamedTuple):
    """The result of a streamed description."""

    context: Context
    created: bool  # while the request waited; False if the context was there already


class DescriptionReader(Reader[Description]):
    """Read a streamed description; one that was there already comes in one piece.

    Attributes:
        state: what the server last said it does.
    """

    def __init__(self, image: Image) -> None:
        super().__init__()
        self.state: State = "waiting"
        self._image = image
        self._has_text = False
        self._description: Description | None = None

    def open(self) -> Flow[OpenStream]:
        """Request the context."""
        reply = yield from self._image.describe()
        if isinstance(reply, Context):  # its id was known, so there is nothing to stream
            self.is_done = True
            return OpenStream(None, self._complete(reply, created=False))
        self._response = reply
        return OpenStream(reply)

    def _read(self, event: Any) -> str:
        kind = event["type"]
        if kind == "context.completed":
            return self._complete(_requests.parse_context(event["context"]), created=bool(event["created"]))
        if kind == "context.description.delta":
            self._has_text = True
            return str(event["delta"])
        self.state = _STATES.get(kind, self.state)
        return ""

    def _complete(self, context: Context, *, created: bool) -> str:
        self._image.set_context(context)
        self._description, self.state = Description(context, created), "completed"
        return "" if self._has_text else context.description

    def _build_result(self) -> Description:
        if self._description is None:
            raise APIResponseError("the stream ended without a context")
        return self._description


class _Stream(Iterator[str], Generic[T]):
    """Iterate over the pieces of a text; taking the first one sends the request.

    Iterating to the end releases the connection; to leave earlier, call `close` or use a `with` block.
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
        """Stop reading, which stops the server too."""
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
                    if self._reader.is_done:
                        break
        self._reader.finish()


class _AsyncStream(AsyncIterator[str], Generic[T]):
    """Do the same for `async for` and `async with`."""

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
        """Stop reading, which stops the server too."""
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
                    if self._reader.is_done:
                        break
        self._reader.finish()


class _AnswerResult:
    _reader: Reader[Answer]

    @property
    def answer(self) -> Answer:
        """The complete answer; raises RuntimeError while pieces are still to come."""
        return self._reader.result


class _DescriptionResult:
    _reader: Reader[Description]

    @property
    def state(self) -> State:
        """The server's last state: `waiting`, `queued`, `describing` or `completed`."""
        assert isinstance(self._reader, DescriptionReader)
        return self._reader.state

    @property
    def context(self) -> Context:
        """The context; raises RuntimeError while pieces are still to come."""
        return self._reader.result.context

    @property
    def created(self) -> bool:
        """Whether the context was made while this request waited."""
        return self._reader.result.created


class AnswerStream(_AnswerResult, _Stream[Answer]):
    """Iterate over the pieces of an answer; `answer` is there after the last one."""


class AsyncAnswerStream(_AnswerResult, _AsyncStream[Answer]):
    """Do the same as `AnswerStream`, for `async for` and `async with`."""


class DescriptionStream(_DescriptionResult, _Stream[Description]):
    """Iterate over the pieces of a description; `context` is there after the last one."""


class AsyncDescriptionStream(_DescriptionResult, _AsyncStream[Description]):
    """Do the same as `DescriptionStream`, for `async for` and `async with`."""
