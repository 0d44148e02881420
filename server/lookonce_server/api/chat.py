"""`POST /v1/chat/completions`."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from lookonce_server.answers import Answers
from lookonce_server.api.completion import Completion
from lookonce_server.api.errors import body_of, status_of
from lookonce_server.api.parsing import parse_chat
from lookonce_server.api.schemas import ChatRequest
from lookonce_server.api.state import AppState, Tenant, state_of
from lookonce_server.engines.base import Piece
from lookonce_server.errors import InvalidRequestError, ModelNotFoundError, ServerError
from lookonce_server.metrics import Metrics
from lookonce_server.sessions import Session

router = APIRouter()
_log = logging.getLogger(__name__)


@router.post("/v1/chat/completions", response_model=None)
async def chat(body: ChatRequest, request: Request, tenant: Tenant) -> Response:
    """Answer a question, about an image or not; `stream` sends the answer as it is made."""
    state = state_of(request)
    begun = time.monotonic()
    cache = "none"
    try:
        async with contextlib.AsyncExitStack() as stack:
            session = await _unless_disconnected(request, _ask(body, state, tenant))
            cache = session.lookup.cache
            answers = await stack.enter_async_context(Answers(session.answers))
            started = await _unless_disconnected(request, answers.begin())
            token_text = state.engine.token_text if body.logprobs else None
            completion = Completion(
                state.served_name, session.lookup, started, state.metrics, begun, token_text=token_text
            )
            if body.stream:
                stack.pop_all()  # the answers are the stream's from here on
                return _EventStream(completion, answers, state.metrics, include_usage=_usage_wanted(body))
            pieces = await _unless_disconnected(request, _collect(completion, answers, len(started)))
            response = JSONResponse(completion.whole(pieces), headers=completion.headers)
    except _ClientGoneError:
        state.metrics.requests.labels(cache, "499").inc()
        return Response(status_code=499)
    except Exception as error:
        state.metrics.requests.labels(cache, str(status_of(error))).inc()
        raise
    state.metrics.requests.labels(cache, "200").inc()
    return response


async def _ask(body: ChatRequest, state: AppState, tenant: str) -> Session:
    if body.model != state.served_name:
        raise ModelNotFoundError(
            f"The model {body.model!r} is not served here; {state.served_name!r} is.", param="model"
        )
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError("stream_options needs stream=true.", param="stream_options")
    question = await asyncio.to_thread(parse_chat, body, state.limits, state.settings.max_answer_tokens)
    on_miss = body.lookonce.on_miss if body.lookonce else None
    return await state.sessions.ask(
        question.conversation, question.image, question.sampling, tenant=tenant, on_miss=on_miss, n=question.n
    )


def _usage_wanted(body: ChatRequest) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage


async def _collect(completion: Completion, answers: Answers, count: int) -> list[list[Piece]]:
    """The pieces of each answer."""
    pieces: list[list[Piece]] = [[] for _ in range(count)]
    async for index, piece in answers:
        completion.count(index, piece)
        pieces[index].append(piece)
    completion.done()
    return pieces


class _EventStream(StreamingResponse):
    """Server-sent events. However it ends, begun or not, its answers are closed and its request is counted, once."""

    def __init__(self, completion: Completion, answers: Answers, metrics: Metrics, *, include_usage: bool) -> None:
        self._completion = completion
        self._answers = answers
        self._metrics = metrics
        self._include_usage = include_usage
        self._outcome = "499"  # until the last event is sent
        super().__init__(self._events(), media_type="text/event-stream", headers=completion.headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._metrics.requests.labels(self._completion.lookup.cache, self._outcome).inc()
            await self._answers.close()

    async def _events(self) -> AsyncIterator[str]:
        """The events; an error cannot change the status any more: it is sent as an event of OpenAI's shape."""
        try:
            for chunk in self._completion.first_chunks():
                yield _event(chunk)
            async for index, piece in self._answers:
                self._completion.count(index, piece)
                for chunk in self._completion.chunks(index, piece):
                    yield _event(chunk)
            self._completion.done()
            if self._include_usage:
                yield _event(self._completion.usage_chunk())
            yield "data: [DONE]\n\n"
            self._outcome = "200"
        except Exception as error:
            self._outcome = str(status_of(error))
            if not isinstance(error, ServerError):
                _log.exception("a stream failed")
            yield _event(body_of(error))


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


class _ClientGoneError(Exception):
    """The client closed the connection."""


async def _unless_disconnected(request: Request, work: Any) -> Any:
    """Await `work`, and cancel it when the client goes away meanwhile: nobody wants its result."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _ClientGoneError
        return task.result()
    finally:
        for pending in (task, gone):
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await pending


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
