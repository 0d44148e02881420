"""`POST /v1/chat/completions`."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lookonce_server.api.accounts import Accounts
from lookonce_server.api.answering import Asked, Pieces, answered
from lookonce_server.api.completion import Completion
from lookonce_server.api.parsing import parse_chat
from lookonce_server.api.schemas import ChatRequest
from lookonce_server.api.state import AppState, Tenant, check_model, state_of
from lookonce_server.api.streaming import DONE, event
from lookonce_server.engines.base import Piece
from lookonce_server.errors import InvalidRequestError

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None)
async def chat(body: ChatRequest, request: Request, tenant: Tenant) -> Response:
    """Answer a question, about an image or not; `stream` sends the answer as it is made."""
    state = state_of(request)
    return await answered(request, state, _ask(body, state, tenant), stream=body.stream)


async def _ask(body: ChatRequest, state: AppState, tenant: str) -> Asked:
    check_model(body.model, state)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError("stream_options needs stream=true.", param="stream_options")
    question = parse_chat(body, state.settings.max_answer_tokens)
    image = await state.images.read(*question.image) if question.image else None
    session = await state.sessions.ask(
        question.conversation, image, question.sampling, tenant=tenant, options=question.options, n=question.n
    )
    token_text = state.engine.token_text if body.logprobs else None
    include_usage = body.stream_options is not None and body.stream_options.include_usage

    def reply(accounts: Accounts) -> _ChatReply:
        return _ChatReply(Completion(state.served_name, accounts, token_text=token_text), include_usage=include_usage)

    return Asked(session, reply)


class _ChatReply:
    """See `Reply`."""

    def __init__(self, completion: Completion, *, include_usage: bool) -> None:
        self._completion = completion
        self._include_usage = include_usage

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
        if self._include_usage:
            yield event(self._completion.usage_chunk())
        yield DONE

    def error_event(self, error: dict[str, Any]) -> str:
        """See `Reply.error_event`."""
        return event(error)
