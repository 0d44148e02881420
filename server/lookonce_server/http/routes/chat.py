"""`POST /v1/chat/completions`."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lookonce_server.engines.base import Piece, Sampling
from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.bodies.json_body import JsonRoute
from lookonce_server.http.chat_request import parse_chat
from lookonce_server.http.chat_response import Completion
from lookonce_server.http.disconnect import DONE, event
from lookonce_server.http.generation import Asked, Pieces, answered
from lookonce_server.http.schemas.answers import ANSWER
from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.http.schemas.errors import errors
from lookonce_server.http.state import AppState, Tenant, check_model, state_of
from lookonce_server.http.usage import Accounts

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/chat/completions", response_model=None, responses={200: ANSWER, **errors(400, 404, 415, 503)})
async def chat(body: ChatRequest, request: Request, tenant: Tenant) -> Response:
    """Answer a question, about an image or not; `stream` sends the answer as it is made."""
    state = state_of(request)
    return await answered(request, state, _ask(body, state, tenant), stream=bool(body.stream))


async def _ask(body: ChatRequest, state: AppState, tenant: str) -> Asked:
    check_model(body.model, state)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError("stream_options needs stream=true.", param="stream_options")
    question = parse_chat(body, state.settings.max_answer_tokens, state.settings.describe_prompt)
    _check_bias(question.sampling, state.engine.facts.vocabulary)
    image = await state.images.read(*question.image) if question.image else None
    session = await state.sessions.ask(
        question.conversation, image, question.sampling, tenant=tenant, options=question.options, n=question.n
    )
    token_text = state.engine.token_text if body.logprobs else None
    stream_usage = bool(body.stream and body.stream_options and body.stream_options.include_usage)

    def reply(accounts: Accounts) -> _ChatReply:
        facts = state.engine.facts
        return _ChatReply(
            Completion(state.served_name, facts, accounts, token_text=token_text, stream_usage=stream_usage)
        )

    return Asked(session, reply)


def _check_bias(sampling: Sampling, vocabulary: int) -> None:
    for token, _ in sampling.logit_bias:
        if token >= vocabulary:
            raise InvalidRequestError(
                f"logit_bias.{token}: the model has no such token; its ids are 0 to {vocabulary - 1}.",
                param=f"logit_bias.{token}",
            )


class _ChatReply:
    """See `Reply`."""

    def __init__(self, completion: Completion) -> None:
        self._completion = completion

    async def whole(self, answers: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """See `Reply.whole`."""
        return self._completion.whole(answers)

    async def events(self, pieces: Pieces) -> AsyncIterator[str]:
        """See `Reply.events`."""
        for chunk in self._completion.first_chunks():
            yield event(chunk)
        async for index, piece in pieces:
            for chunk in self._completion.chunks(index, piece):
                yield event(chunk)
        for chunk in self._completion.last_chunks():
            yield event(chunk)
        yield DONE

    def error_event(self, error: dict[str, Any]) -> str:
        """See `Reply.error_event`."""
        return event(error)
