"""An answer that arrives piece by piece."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from types import TracebackType

import httpx2

from ._exceptions import APIResponseError, stream_error
from ._protocol import AnswerBuilder, StreamedError
from ._transport import connection_errors
from ._types import Answer


class AnswerStream(Iterator[str]):
    """The pieces of an answer's text, in order; `answer` is the whole once the last piece was taken.

    Iterating to the end releases the connection; leave earlier through `close` or a `with` block.
    """

    def __init__(self, response: httpx2.Response, started: float, learn: Callable[[str | None], None]) -> None:
        self._response = response
        self._started = started
        self._learn = learn
        self._builder = AnswerBuilder()
        self._answer: Answer | None = None
        self._pieces = self._read()

    @property
    def answer(self) -> Answer:
        """The whole answer; raises RuntimeError while pieces are still to come."""
        if self._answer is None:
            raise RuntimeError("the answer is not complete; take every piece of the stream first")
        return self._answer

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; the server stops writing."""
        self._pieces.close()
        self._response.close()

    def _read(self) -> Generator[str, None, None]:
        with closing(self._response), connection_errors():
            for event in httpx2.EventSource(self._response):
                try:
                    piece = self._builder.add(event.data)
                except StreamedError as error:
                    raise stream_error(self._response, error.error) from None
                self._learn(self._builder.context_id)
                if self._builder.done:
                    break
                if piece:
                    yield piece
        if not self._builder.done:
            raise APIResponseError("the stream ended before the answer did")
        self._answer = self._builder.answer(time.perf_counter() - self._started)
