"""What becomes of a question, in numbers: for the metrics, and for whatever form its answers are sent in."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lookonce_server.engines.base import Piece, Started
from lookonce_server.logs import RequestFacts, current_request
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.sessions import Lookup


@dataclass
class _Answer:
    """The accounts of one answer."""

    generated: int = 0
    first_made: float | None = None  # when the model made its first token, monotonic
    first_tokens: int = 0  # that came with it
    last_made: float = 0.0
    tier: str | None = None  # where the engine found the context, if not where the store did

    @property
    def tokens_per_second(self) -> float | None:
        """How fast the model made the tokens after the first; None where that cannot be told.

        Not how fast they were sent: an answer that is looked at before it is sent goes out many tokens at once.
        """
        if self.first_made is None or self.last_made <= self.first_made:
            return None
        return (self.generated - self.first_tokens) / (self.last_made - self.first_made)


class Accounts:
    """The accounts of a question and its answers.

    Args:
        lookup: how the question is answered.
        started: the first event of each answer; all stand on the same prompt.
        metrics: what is counted.
        begun: when the request came, monotonic.
    """

    def __init__(self, lookup: Lookup, started: Sequence[Started], metrics: Metrics, begun: float) -> None:
        self.lookup = lookup
        self._started = started
        self._metrics = metrics
        self._begun = begun
        self._answers = [_Answer() for _ in started]
        self._facts = current_request.get() or RequestFacts("", "")
        self._note()

    @property
    def answers(self) -> int:
        """How many answers there are."""
        return len(self._answers)

    @property
    def prompt_tokens(self) -> int:
        """Tokens that each answer stands on."""
        return self._started[0].prompt_tokens

    @property
    def cached_tokens(self) -> int:
        """Those of them that nobody computed for this question."""
        return max(0, self.prompt_tokens - self._started[0].computed_tokens)

    @property
    def generated_tokens(self) -> int:
        """Tokens of all answers, as far as they have come."""
        return sum(answer.generated for answer in self._answers)

    @property
    def headers(self) -> dict[str, str]:
        """The lookup, for those who look at headers."""
        context, fallback = self.lookup.context_id, self.lookup.fallback
        return (
            {"x-lookonce-cache": self.lookup.cache}
            | ({"x-lookonce-context": context} if context else {})
            | ({"x-lookonce-fallback": fallback} if fallback else {})
        )

    def count(self, index: int, piece: Piece) -> None:
        """Count a piece of an answer."""
        now = time.monotonic()
        if all(answer.first_made is None for answer in self._answers):
            self._metrics.first_token_seconds.labels(self.lookup.cache).observe(now - self._begun)
            self._facts.first_token_seconds = round(now - self._begun, 6)
        answer = self._answers[index]
        made = now if piece.made_at is None else piece.made_at
        if answer.first_made is None:
            answer.first_made = made
        if made == answer.first_made:
            answer.first_tokens += piece.tokens
        answer.last_made = made
        answer.generated += piece.tokens
        self._facts.generated_tokens = self.generated_tokens
        answer.tier = piece.tier

    def done(self) -> None:
        """Count the whole: one request, and the work of all its answers."""
        self._metrics.prompt_tokens.inc(self._computed_tokens)
        self._metrics.saved_tokens.inc(self._saved_tokens)
        self._metrics.generated_tokens.inc(self.generated_tokens)
        self._metrics.request_seconds.labels(self.lookup.cache).observe(time.monotonic() - self._begun)
        for answer in self._answers:
            if rate := answer.tokens_per_second:
                self._metrics.tokens_per_second.observe(rate)
            if tier := answer.tier or self.lookup.tier:
                self._metrics.served.labels(tier).inc()

    @property
    def _computed_tokens(self) -> int:
        return sum(started.computed_tokens for started in self._started)

    @property
    def _saved_tokens(self) -> int:
        return sum(_saved_tokens(started) for started in self._started)

    def _note(self) -> None:
        """Tell the request's line in the log what is known from the beginning: a client that leaves is told of too."""
        facts = self._facts
        facts.cache = self.lookup.cache
        facts.prompt_tokens = self.prompt_tokens
        facts.computed_tokens = self._computed_tokens
        facts.saved_tokens = self._saved_tokens

    def extension(self, index: int = 0) -> dict[str, Any]:
        """The `lookonce` object, of one answer where they differ."""
        context, fallback = self.lookup.answering, self.lookup.fallback
        return {
            "cache": self.lookup.cache,
            "tier": self._answers[index].tier or self.lookup.tier,
            "context_id": self.lookup.context_id,
            "context_tokens": context.tokens if context else 0,
            "image_tokens": context.image_tokens if context else 0,
            "tokens_saved": _saved_tokens(self._started[0]),
        } | ({"fallback": fallback} if fallback else {})


def _saved_tokens(started: Started) -> int:
    """Prompt tokens that a full pass would have run and this answer did not."""
    return max(0, started.full_prompt_tokens - started.computed_tokens)
