"""A chat completion on its way to the client: its accounts, and OpenAI's JSON of it."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lookonce_server.engines.base import Piece, Started
from lookonce_server.metrics import Metrics
from lookonce_server.sessions import Lookup

TokenText = Callable[[int], str]
_UNLIKELY = -9999.0  # OpenAI's stand-in for minus infinity, which JSON does not have


@dataclass
class _Choice:
    """The accounts of one answer."""

    generated: int = 0
    first_token: float | None = None  # when it came, monotonic
    last_token: float = 0.0
    tier: str | None = None  # where the engine found the context, if not where the store did


class Completion:
    """What becomes of a request: a choice for every answer.

    Args:
        model: its name in the API.
        lookup: how the question is answered.
        started: the first event of each answer; all stand on the same prompt.
        metrics: what is counted.
        begun: when the request came, monotonic.
        token_text: the text of a token; None where nobody asked for log-probabilities.
    """

    def __init__(
        self,
        model: str,
        lookup: Lookup,
        started: Sequence[Started],
        metrics: Metrics,
        begun: float,
        token_text: TokenText | None,
    ) -> None:
        self.lookup = lookup
        self._model = model
        self._started = started
        self._metrics = metrics
        self._begun = begun
        self._token_text = token_text
        self._choices = [_Choice() for _ in started]
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def count(self, index: int, piece: Piece) -> None:
        """Count a piece of a choice."""
        now = time.monotonic()
        if all(choice.first_token is None for choice in self._choices):
            self._metrics.first_token_seconds.labels(self.lookup.cache).observe(now - self._begun)
        choice = self._choices[index]
        if choice.first_token is None:
            choice.first_token = now
        choice.last_token = now
        choice.generated += piece.tokens
        choice.tier = piece.tier

    def done(self) -> None:
        """Count the whole: one request, and the work of all its answers."""
        self._metrics.prompt_tokens.inc(sum(started.computed_tokens for started in self._started))
        self._metrics.saved_tokens.inc(sum(_saved_tokens(started) for started in self._started))
        self._metrics.generated_tokens.inc(self._generated)
        self._metrics.request_seconds.labels(self.lookup.cache).observe(time.monotonic() - self._begun)
        for choice in self._choices:
            if choice.first_token is not None and choice.generated > 1:
                seconds = max(1e-9, choice.last_token - choice.first_token)
                self._metrics.tokens_per_second.observe((choice.generated - 1) / seconds)
            if tier := choice.tier or self.lookup.tier:
                self._metrics.served.labels(tier).inc()

    @property
    def headers(self) -> dict[str, str]:
        """The lookup, for those who look at headers."""
        context = {"x-lookonce-context": self.lookup.context_id} if self.lookup.context_id else {}
        return {"x-lookonce-cache": self.lookup.cache, **context}

    def whole(self, answers: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """All answers, each given by its pieces, in one object."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(p.text for p in pieces), "refusal": None},
                "logprobs": self._logprobs(pieces),
                "finish_reason": pieces[-1].finish_reason,
            }
            for index, pieces in enumerate(answers)
        ]
        return self._object("chat.completion", choices) | {"usage": self._usage(), "lookonce": self._extension()}

    def first_chunks(self) -> Iterator[dict[str, Any]]:
        """The events that a stream begins with; the very first one tells of the lookup, as far as it is known."""
        for index in range(len(self._choices)):
            chunk = self._chunk(index, {"role": "assistant", "content": ""})
            yield chunk if index else chunk | {"lookonce": self._extension()}

    def chunks(self, index: int, piece: Piece) -> Iterator[dict[str, Any]]:
        """The events that a piece of a choice causes in a stream."""
        # A token without text of its own, as the first half of a character, still has a log-probability.
        if piece.text or (self._token_text and piece.logprob):
            yield self._chunk(index, {"content": piece.text}, logprobs=self._logprobs([piece]))
        if piece.finish_reason:
            yield self._chunk(index, {}, finish_reason=piece.finish_reason) | {"lookonce": self._extension(index)}

    def usage_chunk(self) -> dict[str, Any]:
        """The last event of a stream that was asked for usage."""
        return self._object("chat.completion.chunk", []) | {"usage": self._usage()}

    @property
    def _generated(self) -> int:
        return sum(choice.generated for choice in self._choices)

    def _usage(self) -> dict[str, Any]:
        """OpenAI's usage object: the prompt once, however many answers stand on it."""
        prompt, generated = self._started[0].prompt_tokens, self._generated
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": prompt - self._started[0].computed_tokens},
        }

    def _extension(self, index: int = 0) -> dict[str, Any]:
        """The `lookonce` object, of one choice where they differ."""
        context = self.lookup.context
        return {
            "cache": self.lookup.cache,
            "tier": self._choices[index].tier or self.lookup.tier,
            "context_id": self.lookup.context_id,
            "context_tokens": context.tokens if context else 0,
            "image_tokens": context.image_tokens if context else 0,
            "tokens_saved": _saved_tokens(self._started[0]),
        }

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        """OpenAI's object of the pieces' tokens; None where nobody asked for it."""
        if self._token_text is None:
            return None
        content = []
        for token, logprob, top in (piece.logprob for piece in pieces if piece.logprob):
            likeliest = [_logprob(self._token_text, *one) for one in top]
            content.append(_logprob(self._token_text, token, logprob) | {"top_logprobs": likeliest})
        return {"content": content, "refusal": None}

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", [choice])

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}


def _saved_tokens(started: Started) -> int:
    """Prompt tokens that a full pass would have run and this answer did not."""
    return max(0, started.full_tokens - started.computed_tokens)


def _logprob(token_text: TokenText, token: int, logprob: float) -> dict[str, Any]:
    """A token's entry. Of a part of a character the text does not tell which bytes it is: OpenAI allows null there."""
    text = token_text(token)
    encoded = None if "\ufffd" in text else list(text.encode())
    return {"token": text, "logprob": max(logprob, _UNLIKELY), "bytes": encoded}
