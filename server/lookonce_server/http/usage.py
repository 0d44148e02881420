"""Count the tokens and times of questions, for metrics, log and answers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from lookonce_pruning import kept_count
from lookonce_server.engines.base import FinishReason, Piece, Started
from lookonce_server.http.schemas.answers import ImageUsage, Lookonce
from lookonce_server.logs import RequestFacts, current_request
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.lookup import ImageLookup, Lookup
from lookonce_server.tracing.spans import annotate


@dataclass
class _AnswerUsage:
    """The tokens of one answer, and the times at which the model generated them."""

    generated: int = 0
    reasoning: int = 0  # of those, what the model thought before it answered
    first_made: float | None = None  # when the model generated the first token, monotonic
    first_tokens: int = 0  # generated together with it
    last_made: float = 0.0
    tier: str | None = None  # where the engine found the context, if not where the store did
    finish_reason: FinishReason | None = None

    def count(self, piece: Piece, now: float) -> float | None:
        """Add a piece; return the seconds since the tokens before it, if it is of a later step."""
        made = now if piece.made_at is None else piece.made_at
        pause = None if self.first_made is None or made <= self.last_made else made - self.last_made
        if self.first_made is None:
            self.first_made = made
        if made == self.first_made:
            self.first_tokens += piece.tokens
        self.last_made = made
        self.generated += piece.tokens
        self.reasoning += piece.tokens if piece.reasoning is not None else 0
        self.tier = piece.tier
        self.finish_reason = piece.finish_reason
        return pause

    @property
    def tokens_per_second(self) -> float | None:
        """Return the model's speed after the first token; None if it is unknown.

        It is not the speed at which they were sent: an answer that is checked before it is sent goes out many tokens
        at once.
        """
        if self.first_made is None or self.last_made <= self.first_made:
            return None
        return (self.generated - self.first_tokens) / (self.last_made - self.first_made)


class Usage:
    """Count the tokens and times of a question and its answers.

    Args:
        lookup: how the question is answered.
        started: the first event of each answer; all have the same prompt.
        metrics: the server's.
        arrived_at: when the request came, monotonic.
    """

    def __init__(self, lookup: Lookup, started: Sequence[Started], metrics: Metrics, arrived_at: float) -> None:
        self.lookup = lookup
        self._started = started
        self._metrics = metrics
        self._arrived_at = arrived_at
        self._answers = [_AnswerUsage() for _ in started]
        self._inter_token_seconds = metrics.inter_token_seconds.labels(lookup.cache)
        self._facts = current_request.get() or RequestFacts("", "")
        # Known from the beginning, so that the log has it of a client that leaves too.
        self._facts.cache = lookup.cache
        self._facts.images = len(lookup.images)
        self._facts.hits = sum(image.cache == "hit" for image in lookup.images)
        self._facts.prompt_tokens = self.prompt_tokens
        self._facts.computed_tokens = self._computed_tokens
        self._facts.saved_tokens = self.saved_tokens
        for answer in started:
            if answer.queue_seconds is not None:
                metrics.queue_seconds.labels(lookup.cache).observe(answer.queue_seconds)
        annotate({"gen_ai.usage.cache_read.input_tokens": self.cached_tokens})

    @property
    def num_answers(self) -> int:
        """Return the number of answers."""
        return len(self._answers)

    @property
    def prompt_tokens(self) -> int:
        """Return the number of tokens of each answer's prompt."""
        return self._started[0].prompt_tokens

    @property
    def cached_tokens(self) -> int:
        """Return the number of prompt tokens not computed for this question."""
        return max(0, self.prompt_tokens - self._started[0].computed_tokens)

    @property
    def image_tokens(self) -> int:
        """Return the number of prompt tokens that are images: kept ones of contexts, or all of whole images."""
        contexts = self.lookup.contexts
        return sum(context.kept_tokens for context in contexts) if contexts else self._started[0].image_tokens

    @property
    def cache_write_tokens(self) -> int | None:
        """Return the number of image tokens that contexts keep which are made because of this question.

        None if it is not known yet: of several images that are answered whole, how many tokens each has.
        """
        made = [image for image in self.lookup.images if image.retention is not None]
        if self.lookup.contexts:
            return sum(image.context.kept_tokens for image in made if image.context)
        if len(self.lookup.images) > 1 and made:
            return None
        image_tokens = self._started[0].image_tokens
        return sum(kept_count(image.retention or 1.0, image_tokens) for image in made if image_tokens)

    @property
    def generated_tokens(self) -> int:
        """Return the number of tokens of all answers so far."""
        return sum(answer.generated for answer in self._answers)

    @property
    def reasoning_tokens(self) -> int:
        """Return the number of tokens of all answers so far that are reasoning."""
        return sum(answer.reasoning for answer in self._answers)

    @property
    def headers(self) -> dict[str, str]:
        """Return the lookup as headers of the response."""
        headers = {
            "x-lookonce-cache": self.lookup.cache,
            "x-lookonce-context": ",".join(image.context_id for image in self.lookup.images if image.context_id),
            "x-lookonce-fallback": self.lookup.fallback,
        }
        return {name: value for name, value in headers.items() if value}

    def count(self, index: int, piece: Piece) -> None:
        """Count a piece of an answer."""
        now = time.monotonic()
        if all(answer.first_made is None for answer in self._answers):
            self._metrics.first_token_seconds.labels(self.lookup.cache).observe(now - self._arrived_at)
            self._facts.first_token_seconds = round(now - self._arrived_at, 6)
        pause = self._answers[index].count(piece, now)
        if pause is not None:
            self._inter_token_seconds.observe(pause)
        self._facts.generated_tokens = self.generated_tokens

    def finish(self) -> None:
        """Count the whole: one request, and the work of all its answers."""
        self._count_tokens()
        self._metrics.request_seconds.labels(self.lookup.cache).observe(time.monotonic() - self._arrived_at)
        self._metrics.images.observe(len(self.lookup.images))
        if len(self.lookup.contexts) > 1:
            self._metrics.joined.inc(self.num_answers)
        prefill_seconds = self._metrics.prefill_seconds.labels(self._prompt)
        for answer, started in zip(self._answers, self._started, strict=True):
            if answer.first_made is not None and started.started_at is not None:
                prefill_seconds.observe(answer.first_made - started.started_at)
            if rate := answer.tokens_per_second:
                self._metrics.tokens_per_second.observe(rate)
            for image in self.lookup.images:
                if tier := answer.tier or image.tier:
                    self._metrics.served.labels(tier).inc()
        self._annotate_end()

    def _annotate_end(self) -> None:
        """Tell the trace what is known of whole answers alone."""
        annotate({"gen_ai.response.finish_reasons": [str(answer.finish_reason) for answer in self._answers]})
        if self.reasoning_tokens:
            annotate({"gen_ai.usage.reasoning.output_tokens": self.reasoning_tokens})
        rates = [rate for answer in self._answers if (rate := answer.tokens_per_second)]
        if rates:
            annotate({"lookonce.tokens_per_second": sum(rates) / len(rates)})

    def lookonce(self, index: int = 0) -> Lookonce:
        """Return the `lookonce` object, that of one answer where they differ."""
        lookup, tier = self.lookup, self._answers[index].tier
        frames = self._started[0].frames or (None,) * len(lookup.images)
        images = [_image_usage(*image, tier) for image in zip(lookup.images, frames, strict=True)]
        return Lookonce(
            cache=lookup.cache,
            tier=tier or lookup.tier,
            context_id=lookup.context_id,
            context_tokens=self.prompt_tokens - self._started[0].computed_tokens if lookup.contexts else 0,
            image_tokens=sum(image.image_tokens for image in images),
            tokens_saved=_saved_tokens(self._started[0]),
            images=images,
            **({"fallback": lookup.fallback} if lookup.fallback else {}),
        )

    def _count_tokens(self) -> None:
        processed, saved, metrics = self._computed_tokens, self.saved_tokens, self._metrics
        images = sum(started.computed_image_tokens for started in self._started)
        metrics.prompt_tokens.labels(self._prompt, "image").inc(images)
        metrics.prompt_tokens.labels(self._prompt, "text").inc(processed - images)
        saved_images = min(saved, self.num_answers * sum(one.image_tokens for one in self.lookup.contexts))
        metrics.saved_tokens.labels("image").inc(saved_images)
        metrics.saved_tokens.labels("text").inc(saved - saved_images)
        metrics.generated_tokens.inc(self.generated_tokens)
        metrics.tenants.count_tokens(
            self._facts.tenant, processed=processed, saved=saved, generated=self.generated_tokens
        )

    @property
    def _prompt(self) -> str:
        """Return what the answers come from, as metrics name it."""
        return "context" if self.lookup.contexts else "full"

    @property
    def _computed_tokens(self) -> int:
        return sum(started.computed_tokens for started in self._started)

    @property
    def saved_tokens(self) -> int:
        """Return the number of prompt tokens that full passes would have run besides."""
        return sum(map(_saved_tokens, self._started))


def _saved_tokens(started: Started) -> int:
    """Return the number of prompt tokens that a full pass would have run besides."""
    return max(0, started.full_prompt_tokens - started.computed_tokens)


def _image_usage(image: ImageLookup, frames: int | None, tier: str | None) -> ImageUsage:
    """Return one image's part of the `lookonce` object.

    Args:
        image: its lookup.
        frames: that a full pass saw of a video.
        tier: of the engine's own cache.
    """
    frames = image.context.frames if image.context else frames
    return ImageUsage(
        context_id=image.context_id,
        cache=image.cache,
        tier=tier or image.tier,
        context_tokens=image.context.tokens if image.context else 0,
        image_tokens=image.context.image_tokens if image.context else 0,
        **({} if frames is None else {"frames": frames}),
    )
