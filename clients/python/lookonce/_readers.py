"""What a stream of events amounts to, whoever carries it: a reader opens one, takes its events and has the result."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from . import _protocol
from ._exceptions import APIResponseError, stream_error
from ._flows import Flow
from ._image_flows import Image
from ._types import Answer, AskOptions, Context, Turn

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
State = Literal["waiting", "queued", "describing", "completed"]
_DONE = "[DONE]"
_STATES: Mapping[Any, State] = {"context.queued": "queued", "context.describing": "describing"}


class Opened(NamedTuple):
    """A stream that has begun."""

    response: httpx2.Response | None  # to read events from; None where everything is known already
    piece: str = ""  # text that was there at once


class Reader(ABC, Generic[T]):
    """Reads one stream: `open`, then `add` until `done`, then `end`; `result` is there from then on."""

    def __init__(self) -> None:
        self.done = False
        self._result: T | None = None
        self._response: httpx2.Response | None = None

    @abstractmethod
    def open(self) -> Flow[Opened]:
        """Ask for the stream."""

    @abstractmethod
    def _take(self, event: Any) -> str:
        """Take an event and return the text it adds; what it raises of Python's own means that it is malformed."""

    @abstractmethod
    def _end(self) -> T:
        """The result, all events taken."""

    def add(self, data: str) -> str:
        """Take an event's data and return the text it adds; raises APIStatusError for one that is an error."""
        if data == _DONE:
            self.done = True
            return ""
        try:
            event = json.loads(data)
            error = event.get("error")
            if error is None:
                return self._take(event)
            message = error.get("message")  # an error object has one
        except (ValueError, LookupError, TypeError, AttributeError) as malformed:
            raise _protocol.not_ours("a piece of a stream", malformed) from malformed
        assert self._response is not None
        raise stream_error(self._response, {**error, "message": message})

    def end(self) -> None:
        """Make the result; raises APIResponseError where the stream did not carry all of it."""
        if not self.done:
            raise APIResponseError("the stream ended before it was complete")
        self._result = self._end()

    @property
    def result(self) -> T:
        """What the stream amounts to; raises RuntimeError while pieces are still to come."""
        if self._result is None:
            raise RuntimeError("the stream is not complete; take every piece of it first")
        return self._result


class AnswerReader(Reader[Answer]):
    """Reads an answer.

    Args:
        image: that is asked about.
        question: what is asked.
        options: of the question.
        turns: that came before it.
        on_answer: called with the whole answer.
    """

    def __init__(
        self,
        image: Image,
        question: str,
        options: AskOptions,
        turns: Sequence[Turn] = (),
        on_answer: Callable[[Answer], None] = lambda answer: None,
    ) -> None:
        super().__init__()
        _protocol.check_options(options, AskOptions)
        self._image = image
        self._question, self._options, self._turns = question, options, tuple(turns)
        self._on_answer = on_answer
        self._text = ""
        self._facts: Mapping[str, Any] = {}
        self._usage: Mapping[str, Any] | None = None
        self._bytes_not_sent = 0

    def open(self) -> Flow[Opened]:
        """Ask the question."""
        self._started = time.perf_counter()
        reply = yield from self._image.send_question(self._question, self._options, self._turns, stream=True)
        self._response, self._bytes_not_sent = reply
        return Opened(self._response)

    def _take(self, event: Any) -> str:
        self._facts = event.get("lookonce") or self._facts
        self._usage = event.get("usage") or self._usage
        piece = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        self._image.reference.learn(self._facts.get("context_id"))
        self._text += piece
        return piece

    def _end(self) -> Answer:
        seconds = time.perf_counter() - self._started
        try:
            answer = _protocol.answer_of(self._text, self._facts, self._usage, seconds)
        except (KeyError, TypeError, AttributeError) as error:
            raise _protocol.not_ours("a streamed answer", error) from error
        self._image.answered(answer, self._bytes_not_sent)
        self._on_answer(answer)
        return answer


class Described(NamedTuple):
    """What became of a request for a context."""

    context: Context
    created: bool  # while the request waited; False where it was there already


class DescriptionReader(Reader[Described]):
    """Reads the making of a context. A description that was there already comes in one piece.

    Attributes:
        state: what the server last said it does.
    """

    def __init__(self, image: Image) -> None:
        super().__init__()
        self.state: State = "waiting"
        self._image = image
        self._has_text = False
        self._described: Described | None = None

    def open(self) -> Flow[Opened]:
        """Ask for the context."""
        body = (yield from self._image.send_describe()).body
        if isinstance(body, dict):  # the context itself: its id was known
            self.done = True
            return Opened(None, self._complete(body, created=False))
        self._response = body
        return Opened(body)

    def _take(self, event: Any) -> str:
        kind = event["type"]
        if kind == "context.completed":
            return self._complete(event["context"], created=bool(event["created"]))
        if kind == "context.description.delta":
            self._has_text = True
            return str(event["delta"])
        self.state = _STATES.get(kind, self.state)
        return ""

    def _complete(self, body: Any, *, created: bool) -> str:
        context = self._image.told(_protocol.read_context(body))
        self._described, self.state = Described(context, created), "completed"
        return "" if self._has_text else context.description

    def _end(self) -> Described:
        if self._described is None:
            raise APIResponseError("the stream ended without a context")
        return self._described
