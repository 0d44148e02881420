"""One way for every form of asking: the question is asked, counted, and answered whole or as a stream."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from lookonce_server.answers import Answers
from lookonce_server.api.accounts import Accounts
from lookonce_server.api.errors import status_of
from lookonce_server.api.state import AppState
from lookonce_server.api.streaming import ClientGoneError, EventStream, unless_disconnected
from lookonce_server.engines.base import Piece
from lookonce_server.sessions import Session

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


async def answered(request: Request, state: AppState, asking: Awaitable[Asked], *, stream: bool) -> Response:
    """The response to a question. It is counted once, however it ends; a client that leaves frees its work.

    Args:
        request: of the client.
        state: the server's parts.
        asking: asks the question.
        stream: whether the answers are sent as they are made.
    """
    begun = time.monotonic()
    cache = "none"
    try:
        async with contextlib.AsyncExitStack() as stack:
            session, reply_in = await unless_disconnected(request, asking)
            cache = session.lookup.cache
            answers = await stack.enter_async_context(Answers(session.answers))
            started = await unless_disconnected(request, answers.begin())
            accounts = Accounts(session.lookup, started, state.metrics, begun)
            reply = reply_in(accounts)
            if stream:
                stack.pop_all()  # the answers are the stream's from here on
                return _stream(reply, accounts, answers, state)
            body = await unless_disconnected(request, _whole(reply, accounts, answers))
            response = JSONResponse(body, headers=accounts.headers)
    except ClientGoneError:
        state.metrics.requests.labels(cache, "499").inc()
        return Response(status_code=499)
    except Exception as error:
        state.metrics.requests.labels(cache, str(status_of(error))).inc()
        raise
    state.metrics.requests.labels(cache, "200").inc()
    return response


def _stream(reply: Reply, accounts: Accounts, answers: Answers, state: AppState) -> EventStream:
    async def ended(outcome: str) -> None:
        state.metrics.requests.labels(accounts.lookup.cache, outcome).inc()
        await answers.close()

    events = reply.events(_counted(accounts, answers))
    return EventStream(events, ended, error_event=reply.error_event, headers=accounts.headers)


async def _whole(reply: Reply, accounts: Accounts, answers: Answers) -> dict[str, Any]:
    pieces: list[list[Piece]] = [[] for _ in range(accounts.answers)]
    async for index, piece in _counted(accounts, answers):
        pieces[index].append(piece)
    return await reply.whole(pieces)


async def _counted(accounts: Accounts, answers: Answers) -> Pieces:
    async for index, piece in answers:
        accounts.count(index, piece)
        yield index, piece
    accounts.done()
