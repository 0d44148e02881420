"""Format an answer as a response, whole or as events."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Literal

from pydantic_core import to_json

from lookonce_server.engines.base import Engine, Piece
from lookonce_server.engines.tool_calls import join_calls
from lookonce_server.engines.tools import CallDelta
from lookonce_server.http.chat_format import call_id
from lookonce_server.http.event_stream import event
from lookonce_server.http.generation import AnswerFormat, Pieces
from lookonce_server.http.responses.objects import (
    Failure,
    FunctionCall,
    IncompleteDetails,
    InputTokensDetails,
    OutputItem,
    OutputMessage,
    OutputText,
    OutputTokensDetails,
    ReasoningItem,
    ReasoningText,
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
        tools=request.tools or [],
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
        self._reasoning = ReasoningItem(id=item_id("rs"))
        self._message = OutputMessage(id=item_id())
        self._sent = 0  # events
        self._open: OutputItem | None = None  # the item that events add to
        self._index = -1  # its place in the output
        self._calls: dict[int, FunctionCall] = {}  # by number, as far as they are known
        self._unsent: list[Piece] = []  # of the answer: tokens without text wait for one that has some

    async def body(self, usage: Usage, answers: Sequence[Sequence[Piece]]) -> str:
        """See `AnswerFormat.body`."""
        (pieces,) = answers
        return (await self._finish(usage, pieces)).to_json()

    async def events(self, usage: Usage, pieces: Pieces) -> AsyncIterator[str]:
        """See `AnswerFormat.events`."""
        self._draft = self._draft.model_copy(update={"lookonce": _lookonce(usage)})
        yield self._event("response.created", response=self._draft)
        yield self._event("response.in_progress", response=self._draft)
        answer: list[Piece] = []
        async for _, piece in pieces:
            answer.append(piece)
            for text in self._piece_events(answer):
                yield text
        response = await self._finish(usage, answer)
        for item in response.output[max(self._index, 0) :]:
            for text in (*self._begin(self._begun(item)), *self._rest_events(), *self._end(item)):
                yield text
        yield self._event(f"response.{response.status}", response=response)

    def _begun(self, item: OutputItem) -> OutputItem:
        """Return an item as it begins."""
        empty: dict[str, Any] = {"arguments": ""} if isinstance(item, FunctionCall) else {"content": []}
        return item.model_copy(update={"status": "in_progress", **empty})

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
        is_complete = pieces[-1].finish_reason != "length"
        response = self._with_output(usage, self._output(pieces, is_complete=is_complete), is_complete=is_complete)
        if response.store and not await self._question.keep(response):
            response = response.model_copy(update={"store": False})
        # Log-probabilities are not kept: they can be far larger than everything else.
        output = self._output(pieces, is_complete=is_complete, logprobs=self._logprobs(pieces))
        return response.model_copy(update={"output": output})

    def _output(
        self, pieces: Sequence[Piece], *, is_complete: bool, logprobs: Sequence[TokenLogprob] = ()
    ) -> list[OutputItem]:
        """Return what the model thought, if it did, and its answer, unless it had to end before one."""
        thought, answer = _texts(pieces)
        status: Literal["completed", "incomplete"] = "completed" if is_complete else "incomplete"
        text = OutputText(text=answer, logprobs=list(logprobs))
        message = self._message.model_copy(update={"status": status, "content": [text]})
        calls = self._called(pieces, status)
        output: list[OutputItem] = [message] if answer or not calls else []
        if not thought:
            return [*output, *calls]
        has_answer = is_complete or bool(answer or calls)
        reasoning = self._reasoned(thought, "completed" if has_answer else status)
        return [reasoning, *output, *calls] if has_answer else [reasoning]

    def _called(self, pieces: Sequence[Piece], status: Literal["completed", "incomplete"]) -> list[FunctionCall]:
        """Return the calls of an answer; an answer that is cut is cut in its last one."""
        calls = join_calls(delta for piece in pieces for delta in piece.calls)
        return [
            self._call(delta).model_copy(
                update={"arguments": delta.arguments, "status": status if delta is calls[-1] else "completed"}
            )
            for delta in calls
        ]

    def _call(self, delta: CallDelta) -> FunctionCall:
        """Return the item of a call, the same for all of its pieces."""
        if delta.index not in self._calls:
            self._calls[delta.index] = FunctionCall(id=item_id("fc"), call_id=call_id(), name=delta.name or "")
        return self._calls[delta.index]

    def _reasoned(self, thought: str, status: Literal["completed", "incomplete"]) -> ReasoningItem:
        return self._reasoning.model_copy(update={"status": status, "content": [ReasoningText(text=thought)]})

    def _with_output(self, usage: Usage, output: Sequence[OutputItem], *, is_complete: bool) -> ResponseObject:
        return self._draft.model_copy(
            update={
                "status": "completed" if is_complete else "incomplete",
                "completed_at": int(time.time()) if is_complete else None,
                "incomplete_details": None if is_complete else IncompleteDetails(),
                "output": output,
                "usage": ResponseUsage(
                    input_tokens=usage.prompt_tokens,
                    input_tokens_details=InputTokensDetails(
                        cached_tokens=usage.cached_tokens,
                        image_tokens=usage.image_tokens,
                        cache_write_tokens=usage.cache_write_tokens or 0,  # OpenAI allows no null here
                    ),
                    output_tokens=usage.generated_tokens,
                    output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning_tokens),
                    total_tokens=usage.prompt_tokens + usage.generated_tokens,
                ),
                "lookonce": _lookonce(usage),
            }
        )

    def _logprobs(self, pieces: Sequence[Piece]) -> list[TokenLogprob]:
        """Return the entries of a chat, of the answer alone; OpenAI allows no null for bytes here."""
        return token_logprobs(_answer_of(pieces), self._token_text, unknown_bytes=[]) if self._token_text else []

    def _piece_events(self, pieces: Sequence[Piece]) -> Iterator[str]:
        """Yield the events of the last piece."""
        piece = pieces[-1]
        if not isinstance(self._open, FunctionCall):
            self._unsent = _answer_of([*self._unsent, piece])
        if piece.reasoning:
            yield from self._begin(self._reasoning)
            yield self._part_event("response.reasoning_text.delta", delta=piece.reasoning)
        if piece.text:
            if isinstance(self._open, ReasoningItem):
                yield from self._end(self._reasoned(_texts(pieces)[0], "completed"))
            yield from self._begin(self._message)
            yield self._text_event()
        for delta in piece.calls:
            yield from self._call_events(delta, pieces)

    def _call_events(self, delta: CallDelta, pieces: Sequence[Piece]) -> Iterator[str]:
        """Yield the events of a piece of a call; a new call ends the item before it."""
        call = self._call(delta)
        if self._open is not None and self._open.id != call.id:
            output = self._output(pieces, is_complete=True, logprobs=self._logprobs(pieces))
            yield from self._rest_events()
            yield from self._end(next(item for item in output if item.id == self._open.id))
        yield from self._begin(call)
        if delta.arguments:
            yield self._item_event("response.function_call_arguments.delta", delta=delta.arguments)

    def _rest_events(self) -> Iterator[str]:
        """Yield the log-probabilities of the answer's last tokens, if they have no text."""
        if isinstance(self._open, OutputMessage) and self._logprobs(self._unsent):
            yield self._text_event()

    def _text_event(self) -> str:
        """Return the text of all pieces that are not sent yet."""
        pieces, self._unsent = self._unsent, []
        text = "".join(piece.text for piece in pieces)
        return self._part_event("response.output_text.delta", delta=text, logprobs=self._logprobs(pieces))

    def _begin(self, item: OutputItem) -> Iterator[str]:
        """Yield the events that begin an item, unless it is the open one."""
        if self._open is not None and self._open.id == item.id:
            return
        self._open, self._index = item, self._index + 1
        yield self._event("response.output_item.added", output_index=self._index, item=item)
        if isinstance(item, FunctionCall):
            return
        part = ReasoningText() if isinstance(item, ReasoningItem) else OutputText()
        yield self._part_event("response.content_part.added", part=part)

    def _end(self, item: OutputItem) -> Iterator[str]:
        """Yield the events that end the open item."""
        if isinstance(item, FunctionCall):
            yield self._item_event("response.function_call_arguments.done", arguments=item.arguments, name=item.name)
            yield self._event("response.output_item.done", output_index=self._index, item=item)
            return
        (part,) = item.content
        if isinstance(part, ReasoningText):
            yield self._part_event("response.reasoning_text.done", text=part.text)
        else:
            yield self._part_event("response.output_text.done", text=part.text, logprobs=part.logprobs)
        yield self._part_event("response.content_part.done", part=part)
        yield self._event("response.output_item.done", output_index=self._index, item=item)

    def _part_event(self, kind: str, **fields: Any) -> str:
        return self._item_event(kind, content_index=0, **fields)

    def _item_event(self, kind: str, **fields: Any) -> str:
        assert self._open is not None
        return self._event(kind, item_id=self._open.id, output_index=self._index, **fields)

    def _event(self, kind: str, **fields: Any) -> str:
        data = {"type": kind, "sequence_number": self._sent, **fields}
        self._sent += 1
        return event(to_json(data).decode(), kind)


def _texts(pieces: Sequence[Piece]) -> tuple[str, str]:
    """Return what the model thought, and what it answered."""
    return "".join(piece.reasoning or "" for piece in pieces), "".join(piece.text for piece in pieces)


def _answer_of(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the pieces behind the reasoning; one that ends it may begin the answer."""
    last = max((i for i, piece in enumerate(pieces) if piece.reasoning is not None), default=-1)
    return [piece for piece in pieces[max(last, 0) :] if piece.reasoning is None or piece.text]


def _lookonce(usage: Usage) -> dict[str, Any]:
    return usage.lookonce().model_dump(exclude_unset=True)
