"""Decide how each question is answered, and start its answers.

- hit: an answer pass from the context alone; the image is neither decoded nor encoded;
- miss: a full pass now, at ordinary latency, with one describe pass per new image behind it (`on_miss="full"`), or the
  describe pass first and the answer from its context (`on_miss="compress"`);
- being described: the question waits for that pass, and is a hit.

An answer comes from a context that was made exactly as the request asks, or from the whole image. A request that
bypasses contexts gets a full pass, and nothing else happens. Where fallback is on, the first tokens of an answer from a
context are checked before any is sent; an uncertain answer is replaced by a full pass, if the image is there.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

from lookonce_cache import CompressedContext, ContextIdentity, StoreHit, StoreUnavailableError
from lookonce_server.engines.base import Answer, Engine, Piece, Sampling, Started
from lookonce_server.engines.conversation import Conversation
from lookonce_server.engines.visuals import Visual
from lookonce_server.errors import (
    ContextLostError,
    ContextNotFoundError,
    ContextNotKeptError,
    ContextOutdatedError,
    EngineError,
    InvalidImageError,
    InvalidRequestError,
    ShuttingDownError,
)
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ContextReference, ImageBytes, ImageSource
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.answer_streams import StartedAnswer, start_answers
from lookonce_server.sessions.context_options import NO_OPTIONS, ContextOptions, OnMiss
from lookonce_server.sessions.contexts import Contexts
from lookonce_server.sessions.fallback import Fallback, Outcome, request_margin, strip_margin

_log = logging.getLogger(__name__)
_FALLBACK = Fallback()


class Lookup(NamedTuple):
    """How a question is answered."""

    cache: Literal["hit", "miss", "bypass", "none"]  # none: the question has no image
    tier: str | None = None  # of the store that had the context
    context_id: str | None = None
    context: CompressedContext | None = None
    fallback: Outcome | None = None  # of an answer from a context, where fallback is on

    @property
    def answering(self) -> CompressedContext | None:
        """The context that the answer comes from."""
        return None if self.fallback == "full_pass" else self.context


class Session(NamedTuple):
    """A question, and its answers on their way."""

    lookup: Lookup
    answers: tuple[Answer, ...]  # to the same prompt, each a pass of its own


@dataclass(frozen=True, slots=True)
class _Question:
    conversation: Conversation
    samplings: tuple[Sampling, ...]  # one per answer
    tenant: str
    options: ContextOptions


class Sessions:
    """Answer questions about images.

    Args:
        engine: runs the model.
        contexts: of the images.
        images: decodes request images to RGB.
        on_miss: the answer to a question about a new image, unless the request chooses.
        metrics: counts lost contexts and fallbacks.
        fallback: when a question is asked again of the whole image.
    """

    def __init__(
        self,
        engine: Engine,
        contexts: Contexts,
        *,
        images: Images,
        on_miss: OnMiss,
        metrics: Metrics,
        fallback: Fallback = _FALLBACK,
    ) -> None:
        self._engine = engine
        self._contexts = contexts
        self._images = images
        self._on_miss = on_miss
        self._metrics = metrics
        self._fallback = fallback

    async def ask(
        self,
        conversation: Conversation,
        image: ImageSource | None,
        sampling: Sampling,
        *,
        tenant: str,
        options: ContextOptions = NO_OPTIONS,
        n: int = 1,
    ) -> Session:
        """Route a question to an answer pass, a full pass or a describe pass.

        A seed is the first answer's; each further one has the next: answer i is what seed + i alone would have given.

        Args:
            conversation: the question, and what came before it.
            image: what the question is about, if it is about an image.
            sampling: how answers are decoded.
            tenant: owner of the context.
            options: the request's own choices for the context.
            n: number of answers, all from one lookup.

        Raises:
            InvalidRequestError: the options are beyond the limits, or contradict the context named; or answers cannot
                be held to the schema.
            PromptTooLongError: its text alone cannot fit the model.
            ContextNotFoundError: the context named does not exist.
            StoreUnavailableError: the store that may have the context named does not answer.
            InvalidImageError: a new image cannot be decoded.
            OverloadedError: the queue is full.
            ContextLostError: the context named was found, and then lost on its way to the engine.
        """
        self._contexts.check(options)
        self._engine.facts.check_length(conversation)
        if sampling.json_schema is not None:
            await self._engine.check_schema(sampling.json_schema)
        question = _Question(conversation, tuple(_shift_seed(sampling, i) for i in range(n)), tenant, options)
        if image is None:
            return Session(Lookup("none"), self._full_passes([], question))
        if isinstance(image, ContextReference):
            return await self._answer_named(image.context_id, question)
        if options.bypass:
            return await self._answer_full(Lookup("bypass"), image, question)
        identity = await asyncio.to_thread(self._contexts.identity, tenant, image.content, options)
        hit = await self._contexts.get_or_wait(identity.key(), options.ttl)
        # Nothing is awaited between a miss and the submit of its job: see `DescribeQueue.wait`.
        if hit is not None:
            return await self._answer_hit(hit, image, question)
        if (options.on_miss or self._on_miss) == "compress":
            return await self._describe_first(identity, image, question)
        return await self._describe_behind(identity, image, question)

    async def _answer_named(self, context_id: str, question: _Question) -> Session:
        """Answer a question from the context that it names by id."""
        options = question.options
        if options.bypass:
            raise InvalidRequestError(
                f"{options.place}cache: 'bypass' needs the image itself, not the id of its context.",
                param=f"{options.place}cache",
            )
        hit = await self._contexts.get(question.tenant, context_id, options.ttl)
        _check_options(hit.context, options)
        image = None
        if self._fallback.is_enabled(options):
            image = await self._contexts.kept_image(hit.context.key, options.ttl)
        try:
            return await self._answer(_hit(hit), hit.context, image, question)
        except ContextOutdatedError:  # the template's date changed just now
            raise ContextNotFoundError(context_id) from None

    async def _answer_hit(self, hit: StoreHit, image: ImageBytes, question: _Question) -> Session:
        """Answer from a stored context, or by a full pass if the engine loses the context."""
        with suppress(ContextLostError):  # counted and logged by now
            return await self._answer(_hit(hit), hit.context, image, question)
        return await self._answer_full(Lookup("miss", context_id=hit.context.id), image, question)

    async def _describe_first(self, identity: ContextIdentity, image: ImageBytes, question: _Question) -> Session:
        """Describe a new image, and answer from its context or by a full pass."""
        options = question.options
        job = self._contexts.describe_queue.submit(identity, image, ttl=options.ttl)
        # What is suppressed was counted and logged where it happened.
        with suppress(EngineError, StoreUnavailableError, ContextNotKeptError, ShuttingDownError):
            context = await self._contexts.wait_for(job, image, options)
            return await self._answer(Lookup("miss", None, context.id, context), context, image, question)
        return await self._answer_full(Lookup("miss", context_id=job.key.id), image, question)

    async def _describe_behind(self, identity: ContextIdentity, image: ImageBytes, question: _Question) -> Session:
        """Answer by a full pass, and describe the image once that has started.

        The describe job is submitted at once: a question that comes meanwhile waits for it, and is a hit.
        """
        full_has_started = asyncio.Event()
        job = self._contexts.describe_queue.submit(
            identity, image, ttl=question.options.ttl, start_after=full_has_started
        )
        try:
            return await self._answer_full(Lookup("miss", context_id=job.key.id), image, question)
        finally:
            full_has_started.set()

    async def _answer_full(self, lookup: Lookup, image: ImageBytes, question: _Question) -> Session:
        """Answer from the whole image."""
        started = await start_answers(self._full_passes([await self._images.decode(image)], question))
        return Session(lookup, tuple(answer.events() for answer in started))

    async def _answer(
        self, lookup: Lookup, context: CompressedContext, image: ImageBytes | None, question: _Question
    ) -> Session:
        """Answer from a context, started: a context that cannot be used has shown by then.

        Args:
            lookup: how the context was found.
            context: what is answered from.
            image: the image that an uncertain answer is asked again of, if it is there.
            question: with options and samplings.
        """
        checked = self._fallback.is_enabled(question.options)
        samplings = tuple(map(request_margin, question.samplings)) if checked else question.samplings
        passes = [self._engine.answer([context], question.conversation, sampling) for sampling in samplings]
        try:
            answers = await start_answers(passes, 1 + self._fallback.tokens if checked else 1)
        except ContextLostError as error:
            self._metrics.lost.inc()
            _log.warning("context %s was lost: %s", context.id[:12], error)
            raise
        if checked:
            return await self._answer_or_fall_back(answers, lookup, image, question)
        return Session(lookup, tuple(answer.events() for answer in answers))

    async def _answer_or_fall_back(
        self, answers: tuple[StartedAnswer, ...], lookup: Lookup, image: ImageBytes | None, question: _Question
    ) -> Session:
        """Send started answers, or full passes in their place if one is uncertain."""
        async with AsyncExitStack() as stack:
            for answer in answers:
                stack.push_async_callback(answer.rest.aclose)
            outcome, pixels = await self._needs_full_pass(answers, image)
            self._metrics.fallbacks.labels(outcome).inc()
            lookup = lookup._replace(fallback=outcome)
            if pixels is None:
                stack.pop_all()
                pairs = zip(answers, question.samplings, strict=True)
                return Session(
                    lookup, tuple(answer.events(partial(strip_margin, sampling=sampling)) for answer, sampling in pairs)
                )
        full = await start_answers(self._full_passes([pixels], question))
        discarded = [answer.first[0] for answer in answers]
        return Session(
            lookup._replace(tier=None),
            tuple(
                answer.events(partial(_add_discarded_tokens, discarded=started))
                for answer, started in zip(full, discarded, strict=True)
            ),
        )

    async def _needs_full_pass(
        self, answers: tuple[StartedAnswer, ...], image: ImageBytes | None
    ) -> tuple[Outcome, Visual | None]:
        """Decide on a full pass in place of answers; return pixels if so."""
        if not self._fallback.is_uncertain(answers):
            return "none", None
        started = answers[0].first[0]
        assert isinstance(started, Started)
        if started.full_prompt_tokens >= self._engine.facts.max_tokens:
            return "no_room", None
        if image is None:
            return "no_image", None
        try:
            return "full_pass", await self._images.decode(image)
        except InvalidImageError as error:  # the answer from the context is there all the same
            _log.warning("a question cannot be asked again of the whole image: %s", error)
            return "no_image", None

    def _full_passes(self, pixels: Sequence[Visual], question: _Question) -> tuple[Answer, ...]:
        full, conversation = self._engine.full, question.conversation
        return tuple(full(conversation, pixels, sampling, question.tenant) for sampling in question.samplings)


def _hit(hit: StoreHit) -> Lookup:
    return Lookup("hit", hit.tier, hit.context.id, hit.context)


def _check_options(context: CompressedContext, options: ContextOptions) -> None:
    """Raise InvalidRequestError if options contradict the context named."""
    identity, instead = context.identity, "Send the image itself to ask from another context."
    if options.retention not in (None, identity.retention):
        field = f"{options.place}retention"
        raise InvalidRequestError(
            f"{field}: {options.retention:g}, but the context named was made with {identity.retention:g}. {instead}",
            param=field,
        )
    if options.describe_prompt not in (None, identity.describe_prompt):
        field = f"{options.place}describe_prompt"
        raise InvalidRequestError(f"{field}: the context named was made with another one. {instead}", param=field)


def _shift_seed(sampling: Sampling, i: int) -> Sampling:
    """Return the sampling of a question's answer i."""
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + i)


def _add_discarded_tokens(event: Started | Piece, discarded: Started | Piece) -> Started | Piece:
    """Add the tokens computed for a discarded answer to its replacement.

    Args:
        event: of the answer that replaces it.
        discarded: first event of the discarded answer.
    """
    if isinstance(event, Started) and isinstance(discarded, Started):
        return event._replace(computed_tokens=event.computed_tokens + discarded.computed_tokens)
    return event
