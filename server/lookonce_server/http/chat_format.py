"""Format answers as OpenAI's chat completions, whole or in chunks."""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from lookonce_server.engines.base import Engine, FinishReason, Piece
from lookonce_server.engines.tool_calls import join_calls
from lookonce_server.http.event_stream import DONE, event
from lookonce_server.http.generation import AnswerFormat, Pieces
from lookonce_server.http.schemas.answers import (
    Call,
    CallFunction,
    CallFunctionPiece,
    CallPiece,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    CompletionTokens,
    CompletionUsage,
    Delta,
    Logprobs,
    Message,
    PromptTokens,
    token_logprobs,
)
from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.http.usage import Usage


class ChatFormat(AnswerFormat):
    """Format answers as the choices of a chat completion; see `AnswerFormat`.

    Args:
        request: the client's request.
        model: the model's name in the API.
        engine: of the model.
    """

    def __init__(self, request: ChatRequest, model: str, engine: Engine) -> None:
        self._token_text = engine.token_text if request.logprobs else None
        self._include_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "service_tier": "default",
            "system_fingerprint": f"fp_{engine.facts.fingerprint[:16]}",
        }

    async def body(self, usage: Usage, answers: Sequence[Sequence[Piece]]) -> str:
        """See `AnswerFormat.body`."""
        completion = ChatCompletion(
            **self._head,
            object="chat.completion",
            choices=[self._choice(index, pieces) for index, pieces in enumerate(answers)],
            usage=_completion_usage(usage),
            lookonce=usage.lookonce(),
        )
        return completion.to_json()

    async def events(self, usage: Usage, pieces: Pieces) -> AsyncIterator[str]:
        """See `AnswerFormat.events`.

        The first chunk has the lookup, as far as it is known, and the last chunk of each answer has all of it.
        """
        for index in range(usage.num_answers):
            lookonce: dict[str, Any] = {} if index else {"lookonce": usage.lookonce()}
            yield self._chunk(index, Delta(role="assistant", content="", refusal=None), **lookonce)
        async for index, piece in pieces:
            # A token without text of its own, as the first half of a character, still has a log-probability.
            if piece.calls or piece.text or piece.reasoning or (self._token_text and piece.logprob):
                yield self._chunk(index, _delta(piece), logprobs=self._logprobs([piece]))
            if piece.finish_reason:
                yield self._chunk(index, Delta(), piece.finish_reason, lookonce=usage.lookonce(index))
        if self._include_usage:
            yield self._event([], usage=_completion_usage(usage))
        yield DONE

    def _choice(self, index: int, pieces: Sequence[Piece]) -> Choice:
        reasoning = "".join(piece.reasoning or "" for piece in pieces)
        calls, text = _calls(pieces), "".join(piece.text for piece in pieces)
        told: dict[str, Any] = {"reasoning_content": reasoning} if reasoning else {}
        if calls:
            told["tool_calls"] = calls
        message = Message(role="assistant", content=None if calls and not text else text, refusal=None, **told)
        finish_reason = pieces[-1].finish_reason
        assert finish_reason is not None
        return Choice(index=index, message=message, logprobs=self._logprobs(pieces), finish_reason=finish_reason)

    def _chunk(
        self,
        index: int,
        delta: Delta,
        finish_reason: FinishReason | None = None,
        *,
        logprobs: Logprobs | None = None,
        **fields: Any,
    ) -> str:
        if self._include_usage:
            fields["usage"] = None
        choice = ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish_reason)
        return self._event([choice], **fields)

    def _event(self, choices: list[ChunkChoice], **fields: Any) -> str:
        chunk = ChatCompletionChunk(**self._head, object="chat.completion.chunk", choices=choices, **fields)
        return event(chunk.to_json())

    def _logprobs(self, pieces: Sequence[Piece]) -> Logprobs | None:
        """Return OpenAI's object of the pieces' tokens; None if it is not requested."""
        if self._token_text is None:
            return None
        return Logprobs(content=token_logprobs(pieces, self._token_text), refusal=None)


def call_id() -> str:
    """Return an id for a call."""
    return f"call_{uuid.uuid4().hex[:24]}"


def _calls(pieces: Sequence[Piece]) -> list[Call]:
    """Return the calls of an answer."""
    return [
        Call(id=call_id(), type="function", function=CallFunction(name=call.name or "", arguments=call.arguments))
        for call in join_calls(delta for piece in pieces for delta in piece.calls)
    ]


def _delta(piece: Piece) -> Delta:
    """Return a piece as a delta: of the answer, of what the model thinks, of calls, or of several."""
    fields: dict[str, Any] = {}
    if piece.reasoning:
        fields["reasoning_content"] = piece.reasoning
    if piece.text or not (piece.reasoning or piece.calls):
        fields["content"] = piece.text
    if piece.calls:
        fields["tool_calls"] = [
            CallPiece(index=delta.index, function=CallFunctionPiece(arguments=delta.arguments))
            if delta.name is None
            else CallPiece(
                index=delta.index,
                id=call_id(),
                type="function",
                function=CallFunctionPiece(name=delta.name, arguments=delta.arguments),
            )
            for delta in join_calls(piece.calls)
        ]
    return Delta(**fields)


def _completion_usage(usage: Usage) -> CompletionUsage:
    """Return OpenAI's usage object; the prompt counts once for all answers."""
    prompt, generated = usage.prompt_tokens, usage.generated_tokens
    return CompletionUsage(
        prompt_tokens=prompt,
        completion_tokens=generated,
        total_tokens=prompt + generated,
        prompt_tokens_details=PromptTokens(
            cached_tokens=usage.cached_tokens,
            image_tokens=usage.image_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            audio_tokens=0,
        ),
        completion_tokens_details=CompletionTokens(
            reasoning_tokens=usage.reasoning_tokens,
            audio_tokens=0,
            accepted_prediction_tokens=0,
            rejected_prediction_tokens=0,
        ),
    )
