"""`POST /v1/chat/completions`."""

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lookonce_server.api.errors import body_of, status_of
from lookonce_server.api.parsing import parse_chat
from lookonce_server.api.schemas import ChatRequest
from lookonce_server.api.state import AppState, state_of
from lookonce_server.engines.base import Answer, Piece, Started
from lookonce_server.errors import EngineError, InvalidRequestError, ModelNotFoundError
from lookonce_server.metrics import Metrics
from lookonce_server.sessions import Lookup, Session

router = APIRouter()
_log = logging.getLogger(__name__)


class _Completion:
    """One answer on its way to the client: its texts, its accounts, its JSON."""

    def __init__(self, model: str, lookup: Lookup, started: Started, metrics: Metrics, begun: float) -> None:
        self.lookup = lookup
        self._model = model
        self._started = started
        self._metrics = metrics
        self._begun = begun
        self._first_token: float | None = None
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self.generated = 0
        self.finish_reason: str | None = None

    def take(self, piece: Piece) -> None:
        """Count a piece."""
        if self._first_token is None:
            self._first_token = time.monotonic()
            self._metrics.first_token_seconds.labels(self.lookup.cache).observe(self._first_token - self._begun)
        self.generated += piece.tokens
        self.finish_reason = piece.finish_reason

    def done(self) -> None:
        """Count the whole."""
        now = time.monotonic()
        self._metrics.prompt_tokens.inc(self._started.computed_tokens)
        self._metrics.saved_tokens.inc(self.saved_tokens)
        self._metrics.generated_tokens.inc(self.generated)
        self._metrics.request_seconds.labels(self.lookup.cache).observe(now - self._begun)
        if self._first_token is not None and self.generated > 1:
            self._metrics.tokens_per_second.observe((self.generated - 1) / max(1e-9, now - self._first_token))

    @property
    def saved_tokens(self) -> int:
        """Prompt tokens that a full pass would have run and this answer did not."""
        return max(0, self._started.full_tokens - self._started.computed_tokens)

    @property
    def headers(self) -> dict[str, str]:
        """The lookup, for those who look at headers."""
        context = {"x-lookonce-context": self.lookup.context_id} if self.lookup.context_id else {}
        return {"x-lookonce-cache": self.lookup.cache, **context}

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        prompt = self._started.prompt_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.generated,
            "total_tokens": prompt + self.generated,
            "prompt_tokens_details": {"cached_tokens": prompt - self._started.computed_tokens},
        }

    def extension(self) -> dict[str, Any]:
        """The `lookonce` object."""
        context = self.lookup.context
        return {
            "cache": self.lookup.cache,
            "tier": self.lookup.tier,
            "context_id": self.lookup.context_id,
            "context_tokens": context.tokens if context else 0,
            "image_tokens": context.image_tokens if context else 0,
            "tokens_saved": self.saved_tokens,
        }

    def whole(self, text: str) -> dict[str, Any]:
        """The answer in one object."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return self._object("chat.completion", [choice]) | {"usage": self.usage(), "lookonce": self.extension()}

    def chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        """One event of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", [choice])

    def usage_chunk(self) -> dict[str, Any]:
        """The last event of a stream that was asked for usage."""
        return self._object("chat.completion.chunk", []) | {"usage": self.usage()}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}


@router.post("/v1/chat/completions", response_model=None)
async def chat(body: ChatRequest, request: Request) -> Response:
    """Answer a question, about an image or not; `stream` sends the answer as it is made."""
    state = state_of(request)
    begun = time.monotonic()
    cache = "none"
    try:
        session = await _unless_disconnected(request, _ask(body, state))
        cache = session.lookup.cache
        started = await _unless_disconnected(request, _begin(session.answer))
        completion = _Completion(state.served_name, session.lookup, started, state.metrics, begun)
        if body.stream:
            response: Response = StreamingResponse(
                _events(body, completion, session.answer, state),
                media_type="text/event-stream",
                headers=completion.headers,
            )
        else:
            text = await _unless_disconnected(request, _collect(completion, session.answer))
            response = JSONResponse(completion.whole(text), headers=completion.headers)
    except _ClientGoneError:
        state.metrics.requests.labels(cache, "499").inc()
        return Response(status_code=499)
    except Exception as error:
        state.metrics.requests.labels(cache, str(status_of(error))).inc()
        raise
    if not body.stream:
        state.metrics.requests.labels(cache, "200").inc()
    return response


async def _ask(body: ChatRequest, state: AppState) -> Session:
    if body.model != state.served_name:
        raise ModelNotFoundError(
            f"The model {body.model!r} is not served here; {state.served_name!r} is.", param="model"
        )
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError("stream_options needs stream=true.", param="stream_options")
    question = await asyncio.to_thread(parse_chat, body, state.limits, state.settings.max_answer_tokens)
    on_miss = body.lookonce.on_miss if body.lookonce else None
    return await state.sessions.ask(question.conversation, question.image, question.sampling, on_miss)


async def _begin(answer: Answer) -> Started:
    """The answer's first event: errors that precede it still become an HTTP status."""
    first = await anext(answer)
    assert isinstance(first, Started)
    return first


async def _collect(completion: _Completion, answer: Answer) -> str:
    texts = []
    async for piece in answer:
        assert isinstance(piece, Piece)
        completion.take(piece)
        texts.append(piece.text)
    completion.done()
    return "".join(texts)


async def _events(body: ChatRequest, completion: _Completion, answer: Answer, state: AppState) -> AsyncIterator[str]:
    """Server-sent events.

    Once they began an error cannot change the status: it is sent as an event of OpenAI's shape.
    """
    status = "499"
    try:
        yield _event(completion.chunk({"role": "assistant", "content": ""}) | {"lookonce": completion.extension()})
        async for piece in answer:
            assert isinstance(piece, Piece)
            completion.take(piece)
            if piece.text:
                yield _event(completion.chunk({"content": piece.text}))
            if piece.finish_reason:
                yield _event(completion.chunk({}, piece.finish_reason))
        completion.done()
        if body.stream_options and body.stream_options.include_usage:
            yield _event(completion.usage_chunk())
        yield "data: [DONE]\n\n"
        status = "200"
    except EngineError as error:
        status = str(status_of(error))
        yield _event(body_of(error))
    finally:
        state.metrics.requests.labels(completion.lookup.cache, status).inc()
        await _stop(answer)


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _stop(answer: Answer) -> None:
    close = getattr(answer, "aclose", None)
    if close is not None:
        await close()


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
