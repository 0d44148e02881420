"""One way for every form of asking: the question is asked, counted, and answered whole or as a stream."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from lookonce_server.engines.base import Piece
from lookonce_server.http.disconnect import ClientGoneError, EventStream, event, unless_disconnected
from lookonce_server.http.errors import status_of
from lookonce_server.http.state import AppState
from lookonce_server.http.usage import Accounts
from lookonce_server.sessions.answer_streams import AnswerStreams
from lookonce_server.sessions.sessions import Session

Pieces = AsyncIterator[tuple[int, Piece]]
"""The pieces of all answers as they come, each with its answer's number."""


class Reply(Protocol):
    """The form in which the answers to one question are sent. One of the first two is called, once."""

    async def whole(self, answers: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """All answers, each given by its pieces, in one object."""

    def events(self, pieces: Pieces) -> AsyncIterator[str]:
        """The events of a stream."""

    def error_event(self, error: dict[str, Any]) -> str:
        """What a stream that fails half-way ends with; `error` is a body in OpenAI's shape."""


class Asked(NamedTuple):
    """A question under way, and the form in which its answers are wanted."""

    session: Session
    reply: Callable[[Accounts], Reply]


async def answered(
    request: Request,
    state: AppState,
    asking: Coroutine[Any, Any, Asked],
    *,
    stream: bool,
    early_error: Callable[[dict[str, Any]], str] = event,
) -> Response:
    """The response to a question. It is counted once, however it ends; a client that leaves frees its work.

    A stream's status waits for the first token, which is when most errors show, but for `stream_silence` seconds only:
    a proxy may give up on a server that says nothing. What fails after that is told by an event.

    Args:
        request: of the client.
        state: the server's parts.
        asking: asks the question.
        stream: whether the answers are sent as they are made.
        early_error: an error's body as an event of a stream, where there is no `Reply` yet to make it.
    """
    question = _Question(state, asking)
    try:
        if stream:
            return await _streamed(request, question, state.settings.stream_silence, early_error)
        async with contextlib.aclosing(question):
            body = await unless_disconnected(request, question.whole())
            response = JSONResponse(body, headers=question.headers)
    except ClientGoneError:
        question.count("499")
        return Response(status_code=499)
    except Exception as error:
        question.count(str(status_of(error)))
        raise
    question.count("200")
    return response


async def _streamed(
    request: Request, question: "_Question", silence: float, early_error: Callable[[dict[str, Any]], str]
) -> EventStream:
    beginning = asyncio.create_task(question.begin())

    async def close() -> None:
        beginning.cancel()
        await asyncio.gather(beginning, return_exceptions=True)
        await question.aclose()

    try:
        await unless_disconnected(request, asyncio.wait((beginning,), timeout=silence))
        if beginning.done():
            beginning.result()
    except BaseException:
        await close()
        raise

    async def ended(outcome: str) -> None:
        question.count(outcome)
        await close()

    async def events() -> AsyncIterator[str]:
        await beginning
        async for one in question.events():
            yield one

    return EventStream(
        events(),
        ended,
        error_event=lambda error: (question.reply.error_event if question.reply else early_error)(error),
        headers=question.headers,
        silence=silence,
    )


class _Question:
    """A question on its way: `begin` first, then `events`; or `whole` alone."""

    def __init__(self, state: AppState, asking: Coroutine[Any, Any, Asked]) -> None:
        self.reply: Reply | None = None  # once it has begun
        self._state = state
        self._asking = asking
        self._arrived = time.monotonic()
        self._cache = "none"
        self._answers: AnswerStreams | None = None
        self._accounts: Accounts | None = None

    async def begin(self) -> None:
        """Ask, and wait for the first of every answer; what keeps one of them from beginning is raised here."""
        session, reply_in = await self._asking
        self._cache = session.lookup.cache
        self._answers = AnswerStreams(session.answers)
        started = await self._answers.start()
        self._accounts = Accounts(session.lookup, started, self._state.metrics, self._arrived)
        self.reply = reply_in(self._accounts)

    async def whole(self) -> dict[str, Any]:
        """All answers in one object."""
        await self.begin()
        assert self.reply is not None and self._accounts is not None  # noqa: PT018
        pieces: list[list[Piece]] = [[] for _ in range(self._accounts.answers)]
        async for index, piece in self._counted():
            pieces[index].append(piece)
        return await self.reply.whole(pieces)

    def events(self) -> AsyncIterator[str]:
        """The events of its stream."""
        assert self.reply is not None
        return self.reply.events(self._counted())

    @property
    def headers(self) -> dict[str, str]:
        """Those of its response, as far as they are known."""
        return self._accounts.headers if self._accounts else {}

    def count(self, outcome: str) -> None:
        """Count it under a status."""
        self._state.metrics.requests.labels(self._cache, outcome).inc()

    async def aclose(self) -> None:
        """Stop what still runs."""
        self._asking.close()  # where it was never begun
        if self._answers is not None:
            await self._answers.close()

    async def _counted(self) -> Pieces:
        assert self._answers is not None and self._accounts is not None  # noqa: PT018
        async for index, piece in self._answers:
            self._accounts.count(index, piece)
            yield index, piece
        self._accounts.done()
