"""`POST /v1/chat/completions`."""

import contextlib
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from lookonce_server.answers import Answers
from lookonce_server.api.accounts import Accounts
from lookonce_server.api.completion import Completion
from lookonce_server.api.errors import status_of
from lookonce_server.api.parsing import parse_chat
from lookonce_server.api.schemas import ChatRequest
from lookonce_server.api.state import AppState, Tenant, state_of
from lookonce_server.api.streaming import DONE, ClientGoneError, EventStream, event, unless_disconnected
from lookonce_server.engines.base import Piece
from lookonce_server.errors import InvalidRequestError, ModelNotFoundError
from lookonce_server.sessions import Session

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None)
async def chat(body: ChatRequest, request: Request, tenant: Tenant) -> Response:
    """Answer a question, about an image or not; `stream` sends the answer as it is made."""
    state = state_of(request)
    begun = time.monotonic()
    cache = "none"
    try:
        async with contextlib.AsyncExitStack() as stack:
            session = await unless_disconnected(request, _ask(body, state, tenant))
            cache = session.lookup.cache
            answers = await stack.enter_async_context(Answers(session.answers))
            started = await unless_disconnected(request, answers.begin())
            accounts = Accounts(session.lookup, started, state.metrics, begun)
            token_text = state.engine.token_text if body.logprobs else None
            completion = Completion(state.served_name, accounts, token_text=token_text)
            if body.stream:
                stack.pop_all()  # the answers are the stream's from here on
                return _stream(completion, accounts, answers, state, include_usage=_usage_wanted(body))
            pieces = await unless_disconnected(request, collected(accounts, answers))
            response = JSONResponse(completion.whole(pieces), headers=accounts.headers)
    except ClientGoneError:
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
    question = parse_chat(body, state.settings.max_answer_tokens)
    image = await state.images.read(*question.image) if question.image else None
    return await state.sessions.ask(
        question.conversation, image, question.sampling, tenant=tenant, options=question.options, n=question.n
    )


def _usage_wanted(body: ChatRequest) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage


async def collected(accounts: Accounts, answers: Answers) -> list[list[Piece]]:
    """The pieces of each answer, counted."""
    pieces: list[list[Piece]] = [[] for _ in range(accounts.answers)]
    async for index, piece in answers:
        accounts.count(index, piece)
        pieces[index].append(piece)
    accounts.done()
    return pieces


def _stream(
    completion: Completion, accounts: Accounts, answers: Answers, state: AppState, *, include_usage: bool
) -> EventStream:
    async def events() -> AsyncIterator[str]:
        for chunk in completion.first_chunks():
            yield event(chunk)
        async for index, piece in answers:
            accounts.count(index, piece)
            for chunk in completion.chunks(index, piece):
                yield event(chunk)
        accounts.done()
        if include_usage:
            yield event(completion.usage_chunk())
        yield DONE

    async def ended(outcome: str) -> None:
        state.metrics.requests.labels(accounts.lookup.cache, outcome).inc()
        await answers.close()

    return EventStream(events(), ended, headers=accounts.headers)
