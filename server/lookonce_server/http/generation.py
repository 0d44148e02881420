"""Ask one question, count it, and send its answers as JSON or as a stream."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import Response

from lookonce_server.engines.base import Piece
from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.errors import status_of
from lookonce_server.http.event_stream import EventStream, error_event
from lookonce_server.http.state import AppState
from lookonce_server.http.usage import Usage
from lookonce_server.logs import current_request
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.answer_passes import Session
from lookonce_server.sessions.answer_streams import AnswerStreams

Pieces = AsyncIterator[tuple[int, Piece]]
"""The pieces of all answers as they come, each with its answer's index."""


class AnswerFormat(Protocol):
    """Format the answers to one question for one API.

    Either `body` or `events` is called, once.
    """

    async def body(self, usage: Usage, answers: Sequence[Sequence[Piece]]) -> str:
        """Format all answers, each given by its pieces, as one JSON text."""

    def events(self, usage: Usage, pieces: Pieces) -> AsyncIterator[str]:
        """Format the answers as the events of a stream."""

    def error_event(self, error: dict[str, Any]) -> str:
        """Format an error, a body in OpenAI's shape, as the end of a stream."""
        return error_event(error)

    def field(self, chat_field: str | None) -> str | None:
        """Name a chat's field as this API's requests do."""
        return chat_field


class ClientGoneError(Exception):
    """The client closed the connection."""


async def generate(
    request: Request,
    state: AppState,
    asking: Coroutine[Any, Any, Session],
    answer_format: AnswerFormat,
    *,
    stream: bool,
) -> Response:
    """Answer a question.

    It is counted once, however it ends, and its work ends when the client leaves.

    Args:
        request: the client's request.
        state: the server's parts.
        asking: asks the question. It must not await anything once it has a session, whose answers must be closed.
        answer_format: the shape of the answers.
        stream: whether the answers are sent as they are generated.
    """
    count_saved = partial(state.contexts.count_saved, request.state.tenant)
    generation = _Generation(state.metrics, asking, answer_format, count_saved)
    try:
        if stream:
            return await generation.stream(request, state.settings.stream_silence)
        return await generation.json(request)
    except ClientGoneError:
        generation.count("499")
        return Response(status_code=499)
    except Exception as error:
        generation.count(str(status_of(error)))
        raise


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """Await `work`, and cancel it when the client disconnects.

    Raises:
        ClientGoneError: the client disconnected before the work was done.
    """
    task = asyncio.create_task(work)
    disconnect = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


class _Generation:
    """One question and its answers. Either `stream` or `json` is called, once."""

    def __init__(
        self,
        metrics: Metrics,
        asking: Coroutine[Any, Any, Session],
        answer_format: AnswerFormat,
        count_saved: Callable[[int], None],
    ) -> None:
        self._metrics = metrics
        self._count_saved = count_saved
        self._asking = asking
        self._format = answer_format
        self._arrived_at = time.monotonic()
        facts = current_request.get()
        self._tenant = facts.tenant if facts else None
        self._cache = "none"
        self._start: asyncio.Task[Usage] | None = None
        self._answers: AnswerStreams | None = None

    async def json(self, request: Request) -> Response:
        """Answer with one JSON text."""
        async with aclosing(self):
            text, usage = await unless_disconnected(request, self._collect())
        self.count("200")
        return Response(text, media_type="application/json", headers=usage.headers)

    async def stream(self, request: Request, silence: float) -> EventStream:
        """Answer with a stream of events.

        Its status waits for the first token, which is when most errors show, but for `silence` seconds only: a proxy
        may give up on a server that sends nothing. A later error is sent as an event.
        """
        self._start = asyncio.create_task(self._started())
        try:
            await unless_disconnected(request, asyncio.wait((self._start,), timeout=silence))
            headers = self._start.result().headers if self._start.done() else {}
        except BaseException:
            await self.aclose()
            raise
        events = self._events(self._start)
        return EventStream(events, self._end, error_event=self._format.error_event, headers=headers, silence=silence)

    def count(self, status: str) -> None:
        """Count the question under a status."""
        self._metrics.requests.labels(self._cache, status).inc()
        self._metrics.tenants.count_request(self._tenant, self._cache, status)

    async def aclose(self) -> None:
        """Stop all work that is under way."""
        if self._start is not None:
            self._start.cancel()
            await asyncio.gather(self._start, return_exceptions=True)
        self._asking.close()  # where it was never awaited
        if self._answers is not None:
            await self._answers.close()

    async def _started(self) -> Usage:
        """Ask, and wait for the first event of every answer."""
        try:
            session = await self._asking
            self._cache = session.lookup.cache
            self._answers = AnswerStreams(session.answers)
            started = await self._answers.start()
        except InvalidRequestError as error:
            error.param = self._format.field(error.param)
            raise
        return Usage(session.lookup, started, self._metrics, self._arrived_at)

    async def _collect(self) -> tuple[str, Usage]:
        usage = await self._started()
        answers: list[list[Piece]] = [[] for _ in range(usage.num_answers)]
        async for index, piece in self._pieces(usage):
            answers[index].append(piece)
        return await self._format.body(usage, answers), usage

    async def _events(self, start: asyncio.Task[Usage]) -> AsyncIterator[str]:
        usage = await start
        async for text in self._format.events(usage, self._pieces(usage)):
            yield text

    async def _pieces(self, usage: Usage) -> Pieces:
        assert self._answers is not None
        async for index, piece in self._answers:
            usage.count(index, piece)
            yield index, piece
        usage.finish()
        self._count_saved(usage.saved_tokens)

    async def _end(self, status: str) -> None:
        self.count(status)
        await self.aclose()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
