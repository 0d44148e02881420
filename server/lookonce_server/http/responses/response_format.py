"""A response on its way to the client, whole or as events."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal

from lookonce_server.engines.base import Piece
from lookonce_server.http.generation import Pieces
from lookonce_server.http.logprobs import TokenText, logprob_entries
from lookonce_server.http.responses.objects import (
    Failure,
    IncompleteDetails,
    InputTokensDetails,
    OutputMessage,
    OutputText,
    ResponseObject,
    Usage,
)
from lookonce_server.http.responses.request import ResponseRequest
from lookonce_server.http.responses.response_store import item_id, response_id
from lookonce_server.http.usage import Accounts

Keep = Callable[[ResponseObject], Awaitable[bool]]


def draft_of(request: ResponseRequest, model: str, *, store: bool) -> ResponseObject:
    """The response as it is before it has an answer, with what was asked and the defaults of what was not."""
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


class ResponseReply:
    """See `Reply`. The answer is kept before the client is told that it is complete, so that it can go on at once.

    Args:
        draft: the response without its answer.
        accounts: of the question.
        token_text: the text of a token; None where nobody asked for log-probabilities.
        keep: keeps the response; whether it could.
    """

    def __init__(self, draft: ResponseObject, accounts: Accounts, *, token_text: TokenText | None, keep: Keep) -> None:
        self._draft = draft.model_copy(update={"lookonce": accounts.extension()})
        self._accounts = accounts
        self._token_text = token_text
        self._keep = keep
        self._item_id = item_id()
        self._sent = 0  # events

    async def whole(self, answers: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """See `Reply.whole`."""
        (pieces,) = answers
        return (await self._finished(pieces)).shown()

    async def events(self, pieces: Pieces) -> AsyncIterator[str]:
        """See `Reply.events`."""
        message = OutputMessage(id=self._item_id)
        yield self._event("response.created", response=self._draft.shown())
        yield self._event("response.in_progress", response=self._draft.shown())
        yield self._event("response.output_item.added", output_index=0, item=message.shown())
        yield self._part_event("response.content_part.added", part=OutputText().shown())
        got: list[Piece] = []
        async for _, piece in pieces:
            got.append(piece)
            logprobs = self._logprobs([piece])
            if piece.text or logprobs:
                yield self._part_event("response.output_text.delta", delta=piece.text, logprobs=logprobs)
        response = await self._finished(got)
        message = response.output[0]
        (part,) = message.content
        yield self._part_event("response.output_text.done", text=part.text, logprobs=part.logprobs)
        yield self._part_event("response.content_part.done", part=part.shown())
        yield self._event("response.output_item.done", output_index=0, item=message.shown())
        yield self._event(f"response.{response.status}", response=response.shown())

    def error_event(self, error: dict[str, Any]) -> str:
        """See `Reply.error_event`: the failed response, and the error, which OpenAI's clients raise."""
        found = error["error"]
        code: Literal["server_error", "rate_limit_exceeded"] = (
            "rate_limit_exceeded" if found["type"] == "rate_limit_error" else "server_error"
        )
        failure = Failure(code=code, message=found["message"])
        failed = self._draft.model_copy(update={"status": "failed", "error": failure, "store": False})
        return self._event("response.failed", response=failed.shown()) + error_event(error, self._sent)

    async def _finished(self, pieces: Sequence[Piece]) -> ResponseObject:
        """The response with its answer, kept if it is to be."""
        is_whole = pieces[-1].finish_reason == "stop"
        status: Literal["completed", "incomplete"] = "completed" if is_whole else "incomplete"
        text = OutputText(text="".join(piece.text for piece in pieces))
        response = self._with_answer(text, status)
        if response.store and not await self._keep(response):
            response = response.model_copy(update={"store": False})
        if self._token_text is None:
            return response
        likely = OutputMessage.model_validate(  # these are not kept: they can be far larger than all the rest
            response.output[0].model_dump() | {"content": [{"text": text.text, "logprobs": self._logprobs(pieces)}]}
        )
        return response.model_copy(update={"output": [likely]})

    def _with_answer(self, text: OutputText, status: Literal["completed", "incomplete"]) -> ResponseObject:
        message = OutputMessage(id=self._item_id, status=status, content=[text])
        return self._draft.model_copy(
            update={
                "status": status,
                "completed_at": int(time.time()) if status == "completed" else None,
                "incomplete_details": None if status == "completed" else IncompleteDetails(),
                "output": [message],
                "usage": self._usage(),
                "lookonce": self._accounts.extension(),
            }
        )

    def _usage(self) -> Usage:
        prompt, generated = self._accounts.prompt_tokens, self._accounts.generated_tokens
        return Usage(
            input_tokens=prompt,
            input_tokens_details=InputTokensDetails(cached_tokens=self._accounts.cached_tokens),
            output_tokens=generated,
            total_tokens=prompt + generated,
        )

    def _logprobs(self, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
        """As in a chat; only that where a token's bytes are not known, OpenAI allows no null here."""
        if self._token_text is None:
            return []
        entries = logprob_entries(pieces, self._token_text)
        for entry in (each for one in entries for each in (one, *one["top_logprobs"])):
            entry["bytes"] = entry["bytes"] or []
        return entries

    def _part_event(self, kind: str, **fields: Any) -> str:
        return self._event(kind, item_id=self._item_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> str:
        sent = self._sent
        self._sent += 1
        return _event(kind, sent, **fields)


def error_event(error: dict[str, Any], sent: int = 0) -> str:
    """An error's body as an event, the last one of a stream; all that there is of a response that never began.

    Args:
        error: in OpenAI's shape.
        sent: events before it.
    """
    found = error["error"]
    said = {name: found[name] for name in ("code", "message", "param")}
    return _event("error", sent, **said, error=found)


def _event(kind: str, sent: int, **fields: Any) -> str:
    data = {"type": kind, "sequence_number": sent, **fields}
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
