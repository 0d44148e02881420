"""`POST /v1/chat/completions`."""

import contextlib
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from lookonce_server.answers import Answers
from lookonce_server.api.accounts import Accounts
from lookonce_server.api.completion import Completion
from lookonce_server.api.documented import errors
from lookonce_server.api.errors import status_of
from lookonce_server.api.parsing import parse_chat
from lookonce_server.api.schemas import ChatRequest
from lookonce_server.api.shapes import ANSWER
from lookonce_server.api.state import AppState, Tenant, check_model, state_of
from lookonce_server.api.streaming import DONE, ClientGoneError, EventStream, event, unless_disconnected
from lookonce_server.engines.base import Piece, Sampling
from lookonce_server.errors import InvalidRequestError
from lookonce_server.sessions import Session

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None, responses={200: ANSWER, **errors(400, 404, 503)})
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
            completion = Completion(
                state.served_name, state.engine.facts, accounts, token_text=token_text, stream_usage=_usage_wanted(body)
            )
            if body.stream:
                stack.pop_all()  # the answers are the stream's from here on
                return _stream(completion, accounts, answers, state)
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
    check_model(body.model, state)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError("stream_options needs stream=true.", param="stream_options")
    question = parse_chat(body, state.settings.max_answer_tokens, state.settings.describe_prompt)
    _check_bias(question.sampling, state.engine.facts.vocabulary)
    image = await state.images.read(*question.image) if question.image else None
    return await state.sessions.ask(
        question.conversation, image, question.sampling, tenant=tenant, options=question.options, n=question.n
    )


def _check_bias(sampling: Sampling, vocabulary: int) -> None:
    for token, _ in sampling.logit_bias:
        if token >= vocabulary:
            raise InvalidRequestError(
                f"logit_bias.{token}: the model has no such token; its ids are 0 to {vocabulary - 1}.",
                param=f"logit_bias.{token}",
            )


def _usage_wanted(body: ChatRequest) -> bool:
    return bool(body.stream and body.stream_options and body.stream_options.include_usage)


async def collected(accounts: Accounts, answers: Answers) -> list[list[Piece]]:
    """The pieces of each answer, counted."""
    pieces: list[list[Piece]] = [[] for _ in range(accounts.answers)]
    async for index, piece in answers:
        accounts.count(index, piece)
        pieces[index].append(piece)
    accounts.done()
    return pieces


def _stream(completion: Completion, accounts: Accounts, answers: Answers, state: AppState) -> EventStream:
    async def events() -> AsyncIterator[str]:
        for chunk in completion.first_chunks():
            yield event(chunk)
        async for index, piece in answers:
            accounts.count(index, piece)
            for chunk in completion.chunks(index, piece):
                yield event(chunk)
        accounts.done()
        for chunk in completion.last_chunks():
            yield event(chunk)
        yield DONE

    async def ended(outcome: str) -> None:
        state.metrics.requests.labels(accounts.lookup.cache, outcome).inc()
        await answers.close()

    return EventStream(events(), ended, headers=accounts.headers)
