"""Format an answer as a response, whole or as events."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from pydantic_core import to_json

from lookonce_server.engines.base import Engine, Piece
from lookonce_server.http.event_stream import event
from lookonce_server.http.generation import AnswerFormat, Pieces
from lookonce_server.http.responses.objects import (
    Failure,
    IncompleteDetails,
    InputTokensDetails,
    OutputMessage,
    OutputText,
    ResponseObject,
    ResponseUsage,
)
from lookonce_server.http.responses.question import ResponseQuestion
from lookonce_server.http.responses.request import ResponseRequest
from lookonce_server.http.responses.response_store import item_id, response_id
from lookonce_server.http.schemas.answers import TokenLogprob, token_logprobs
from lookonce_server.http.usage import Usage


def draft_of(request: ResponseRequest, model: str, *, store: bool) -> ResponseObject:
    """Return the response without its answer, with the request's options."""
    return ResponseObject(
        id=response_id(),
        created_at=int(time.time()),
        model=model,
        previous_response_id=request.previous_response_id,
        store=store,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_logprobs=request.top_logprobs or 0,
        text=request.text,
        tool_choice=request.tool_choice or "auto",
        parallel_tool_calls=request.parallel_tool_calls is not False,
        metadata=request.metadata or {},
        user=request.user,
        safety_identifier=request.safety_identifier,
        prompt_cache_key=request.prompt_cache_key,
    )


class ResponsesFormat(AnswerFormat):
    """Format an answer as a response; see `AnswerFormat`.

    The response is kept before its last event is sent, so that the client can go on at once.

    Args:
        draft: the response without its answer.
        question: names the request's fields, and keeps the response.
        engine: returns the texts of tokens; None where log-probabilities are not requested.
    """

    def __init__(self, draft: ResponseObject, question: ResponseQuestion, engine: Engine | None) -> None:
        self._draft = draft
        self._question = question
        self._token_text = engine.token_text if engine else None
        self._item_id = item_id()
        self._sent = 0  # events

    async def body(self, usage: Usage, answers: Sequence[Sequence[Piece]]) -> str:
        """See `AnswerFormat.body`."""
        (pieces,) = answers
        return (await self._finish(usage, pieces)).to_json()

    async def events(self, usage: Usage, pieces: Pieces) -> AsyncIterator[str]:
        """See `AnswerFormat.events`."""
        self._draft = self._draft.model_copy(update={"lookonce": _lookonce(usage)})
        yield self._event("response.created", response=self._draft)
        yield self._event("response.in_progress", response=self._draft)
        yield self._event("response.output_item.added", output_index=0, item=OutputMessage(id=self._item_id))
        yield self._part_event("response.content_part.added", part=OutputText())
        answer: list[Piece] = []
        async for _, piece in pieces:
            answer.append(piece)
            logprobs = self._logprobs([piece])
            if piece.text or logprobs:
                yield self._part_event("response.output_text.delta", delta=piece.text, logprobs=logprobs)
        response = await self._finish(usage, answer)
        message = response.output[0]
        (part,) = message.content
        yield self._part_event("response.output_text.done", text=part.text, logprobs=part.logprobs)
        yield self._part_event("response.content_part.done", part=part)
        yield self._event("response.output_item.done", output_index=0, item=message)
        yield self._event(f"response.{response.status}", response=response)

    def error_event(self, error: dict[str, Any]) -> str:
        """See `AnswerFormat.error_event`: the error, which OpenAI's clients raise, after the response that failed."""
        detail = error["error"]
        failed = ""
        if self._sent:
            code: Literal["server_error", "rate_limit_exceeded"] = (
                "rate_limit_exceeded" if detail["type"] == "rate_limit_error" else "server_error"
            )
            failure = Failure(code=code, message=detail["message"])
            response = self._draft.model_copy(update={"status": "failed", "error": failure, "store": False})
            failed = self._event("response.failed", response=response)
        fields = {name: detail[name] for name in ("code", "message", "param")}
        return failed + self._event("error", **fields, error=detail)

    def field(self, chat_field: str | None) -> str | None:
        """See `AnswerFormat.field`."""
        return self._question.field(chat_field)

    async def _finish(self, usage: Usage, pieces: Sequence[Piece]) -> ResponseObject:
        """Return the response with its answer, kept if it is to be."""
        text = OutputText(text="".join(piece.text for piece in pieces))
        response = self._with_answer(usage, text, is_complete=pieces[-1].finish_reason == "stop")
        if response.store and not await self._question.keep(response):
            response = response.model_copy(update={"store": False})
        if self._token_text is None:
            return response
        # Log-probabilities are not kept: they can be far larger than everything else.
        content = [text.model_copy(update={"logprobs": self._logprobs(pieces)})]
        return response.model_copy(update={"output": [response.output[0].model_copy(update={"content": content})]})

    def _with_answer(self, usage: Usage, text: OutputText, *, is_complete: bool) -> ResponseObject:
        status: Literal["completed", "incomplete"] = "completed" if is_complete else "incomplete"
        return self._draft.model_copy(
            update={
                "status": status,
                "completed_at": int(time.time()) if is_complete else None,
                "incomplete_details": None if is_complete else IncompleteDetails(),
                "output": [OutputMessage(id=self._item_id, status=status, content=[text])],
                "usage": ResponseUsage(
                    input_tokens=usage.prompt_tokens,
                    input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens),
                    output_tokens=usage.generated_tokens,
                    total_tokens=usage.prompt_tokens + usage.generated_tokens,
                ),
                "lookonce": _lookonce(usage),
            }
        )

    def _logprobs(self, pieces: Sequence[Piece]) -> list[TokenLogprob]:
        """Return the entries of a chat; OpenAI allows no null for bytes here."""
        return token_logprobs(pieces, self._token_text, unknown_bytes=[]) if self._token_text else []

    def _part_event(self, kind: str, **fields: Any) -> str:
        return self._event(kind, item_id=self._item_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> str:
        data = {"type": kind, "sequence_number": self._sent, **fields}
        self._sent += 1
        return event(to_json(data).decode(), kind)


def _lookonce(usage: Usage) -> dict[str, Any]:
    return usage.lookonce().model_dump(exclude_unset=True)
