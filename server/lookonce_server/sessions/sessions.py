"""The heart: for each question, find the image's context, and decide how it is answered.

- hit: an answer pass from the context alone; the image is neither decoded nor encoded;
- miss: a full pass now, at ordinary latency, while one describe pass a new image runs behind (`on_miss="full"`), or the
  describe pass first and the answer from its context (`on_miss="compress"`);
- being described: the question waits for that pass, and is a hit.

An answer comes from a context that was made exactly as the request wants it, or from the whole image. A request that
wants to bypass contexts gets a full pass, and nothing else happens. Where the request wants a fallback, the first
tokens of an answer from a context are looked at before any is sent; one that is not sure gives way to a full pass, if
the image is there.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from PIL import Image

from lookonce_cache import CompressedContext, ContextIdentity, StoreHit, StoreUnavailableError
from lookonce_server.engines.base import Answer, Engine, Piece, Sampling, Started
from lookonce_server.engines.conversation import Conversation
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
from lookonce_server.sessions.answer_streams import Begun, begun
from lookonce_server.sessions.context_options import NO_OPTIONS, ContextOptions, OnMiss
from lookonce_server.sessions.contexts import Contexts
from lookonce_server.sessions.fallback import Fallback, Outcome, as_asked, looked_into

_log = logging.getLogger(__name__)
_FALLBACK = Fallback()


class Lookup(NamedTuple):
    """How a question is answered."""

    cache: Literal["hit", "miss", "bypass", "none"]  # none: no image was asked about
    tier: str | None  # of the store that had the context
    context_id: str | None
    context: CompressedContext | None
    fallback: Outcome | None = None  # where it was wanted, of an answer from a context

    @property
    def answering(self) -> CompressedContext | None:
        """The context that the answer stands on."""
        return None if self.fallback == "full_pass" else self.context


class Session(NamedTuple):
    """A question under way."""

    lookup: Lookup
    answers: tuple[Answer, ...]  # to the same prompt, each a pass of its own


@dataclass(frozen=True, slots=True)
class _Question:
    conversation: Conversation
    samplings: tuple[Sampling, ...]  # one an answer
    tenant: str
    options: ContextOptions


class Sessions:
    """Answers questions about images.

    Args:
        engine: runs the model.
        contexts: of the images.
        images: decodes what is new.
        on_miss: what a new image causes, unless the request says otherwise.
        metrics: what is counted.
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
        """Decide how a question is answered, once for all of its `n` answers.

        A seed is the first answer's; each further one has the next: answer i is what seed + i alone would have given.

        Raises:
            InvalidRequestError: the options are beyond the limits, or contradict the context named.
            PromptTooLongError: its text alone cannot fit the model.
            ContextNotFoundError: the context named does not exist.
            StoreUnavailableError: the store that may have the context named does not answer.
            InvalidImageError: a new image cannot be decoded.
            InvalidRequestError: answers cannot be held to the schema.
            OverloadedError: the queue is full.
            ContextLostError: the context named was found, and then lost on its way to the engine.
        """
        self._contexts.check(options)
        self._engine.facts.check_length(conversation)
        if sampling.json_schema is not None:
            await self._engine.check_schema(sampling.json_schema)
        samplings = tuple(_of_answer(sampling, i) for i in range(n))
        question = _Question(conversation, samplings, tenant, options)
        if image is None:
            answers = tuple(self._engine.full(conversation, None, one, tenant) for one in samplings)
            return Session(Lookup("none", None, None, None), answers)
        if isinstance(image, ContextReference):
            return await self._named(image.context_id, question)
        if options.bypass:
            return await self._full(Lookup("bypass", None, None, None), image, question)
        identity = await asyncio.to_thread(self._contexts.identity, tenant, image.data, options)
        found = await self._contexts.get_or_wait(identity.key(), options.ttl)
        # What fails on the way to an answer from a context was counted where it happened: the full pass answers then.
        if found is not None:
            with suppress(ContextLostError):
                return await self._hit(found, question, image)
        elif (options.on_miss or self._on_miss) == "compress":
            with suppress(EngineError, StoreUnavailableError, ContextNotKeptError, ShuttingDownError):
                making = self._contexts.make(identity, image, ttl=options.ttl)
                context = await self._contexts.made(making, image, options)
                lookup = Lookup("miss", None, context.id, context)
                return await self._answered(context, lookup, question, image)
        else:
            return await self._full_and_describe_behind(identity, image, question)
        return await self._full(_miss(identity), image, question)

    async def _named(self, context_id: str, question: _Question) -> Session:
        """The session of a question about a context given by its id."""
        options = question.options
        if options.bypass:
            raise InvalidRequestError(
                f"{options.place}cache: 'bypass' needs the image itself, not the id of its context.",
                param=f"{options.place}cache",
            )
        found = await self._contexts.get(question.tenant, context_id, options.ttl)
        _check_made_so(found.context, options)
        image = None
        if self._fallback.is_wanted(options):
            image = await self._contexts.kept_image(found.context.key, options.ttl)
        try:
            return await self._hit(found, question, image)
        except ContextOutdatedError:  # the template's date changed just now
            raise ContextNotFoundError(context_id) from None

    async def _hit(self, found: StoreHit, question: _Question, image: ImageBytes | None) -> Session:
        lookup = Lookup("hit", found.tier, found.context.id, found.context)
        return await self._answered(found.context, lookup, question, image)

    async def _answered(
        self, context: CompressedContext, lookup: Lookup, question: _Question, image: ImageBytes | None
    ) -> Session:
        """The session of an answer from a context, begun: what is wrong with the context has shown by then."""
        is_wanted = self._fallback.is_wanted(question.options)
        samplings = tuple(map(looked_into, question.samplings)) if is_wanted else question.samplings
        passes = [self._engine.answer(context, question.conversation, one) for one in samplings]
        try:
            answers = await begun(passes, 1 + self._fallback.tokens if is_wanted else 1)
        except ContextLostError as error:
            self._metrics.lost.inc()
            _log.warning("context %s: %s", context.id[:12], error)
            raise
        if is_wanted:
            return await self._sure(answers, lookup, question, image)
        return Session(lookup, tuple(one.whole() for one in answers))

    async def _sure(
        self, answers: tuple[Begun, ...], lookup: Lookup, question: _Question, image: ImageBytes | None
    ) -> Session:
        """The session of these answers, or of full passes in their place where they are not sure."""
        async with AsyncExitStack() as stack:
            for one in answers:
                stack.push_async_callback(one.rest.aclose)
            outcome, pixels = await self._judged(answers, image)
            self._metrics.fallbacks.labels(outcome).inc()
            lookup = lookup._replace(fallback=outcome)
            if pixels is None:
                stack.pop_all()
                asked = zip(answers, question.samplings, strict=True)
                return Session(lookup, tuple(one.whole(_as_asked(sampling)) for one, sampling in asked))
        full = await self._passes(pixels, question)
        in_vain = [one.events[0] for one in answers]
        again = tuple(one.whole(_charged(started)) for one, started in zip(full, in_vain, strict=True))
        return Session(lookup._replace(tier=None), again)

    async def _judged(self, answers: tuple[Begun, ...], image: ImageBytes | None) -> tuple[Outcome, Image.Image | None]:
        """What becomes of answers that have begun, and the picture where they are asked again."""
        if not self._fallback.is_unsure(answers):
            return "none", None
        started = answers[0].events[0]
        assert isinstance(started, Started)
        if started.full_tokens >= self._engine.facts.max_tokens:
            return "no_room", None
        if image is None:
            return "no_image", None
        try:
            return "full_pass", await self._images.decode(image)
        except InvalidImageError as error:  # the answer from the context is there all the same
            _log.warning("an image cannot be asked again: %s", error)
            return "no_image", None

    async def _full_and_describe_behind(
        self, identity: ContextIdentity, image: ImageBytes, question: _Question
    ) -> Session:
        """A full pass, and the describe pass once it has begun: the first answer comes no later for it.

        The describe pass is announced at once, so that whoever asks meanwhile waits for it and is a hit.
        """
        full_has_begun = asyncio.Event()
        self._contexts.make(identity, image, ttl=question.options.ttl, after=full_has_begun)
        try:
            return await self._full(_miss(identity), image, question)
        finally:
            full_has_begun.set()

    async def _full(self, lookup: Lookup, image: ImageBytes, question: _Question) -> Session:
        pixels = await self._images.decode(image)
        return Session(lookup, tuple(one.whole() for one in await self._passes(pixels, question)))

    async def _passes(self, pixels: Image.Image, question: _Question) -> tuple[Begun, ...]:
        engine = self._engine
        return await begun(
            [engine.full(question.conversation, pixels, one, question.tenant) for one in question.samplings]
        )


def _miss(identity: ContextIdentity) -> Lookup:
    return Lookup("miss", None, identity.key().id, None)


def _check_made_so(context: CompressedContext, options: ContextOptions) -> None:
    """Raise InvalidRequestError if a request wants a context that it names by id to be another one."""
    made, instead = context.identity, "Send the image itself to ask from another context."
    if options.retention not in (None, made.retention):
        field = f"{options.place}retention"
        raise InvalidRequestError(
            f"{field}: {options.retention:g}, but the context named was made with {made.retention:g}. {instead}",
            param=field,
        )
    if options.describe_prompt not in (None, made.describe_prompt):
        field = f"{options.place}describe_prompt"
        raise InvalidRequestError(f"{field}: the context named was made with another one. {instead}", param=field)


def _of_answer(sampling: Sampling, i: int) -> Sampling:
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + i)


def _as_asked(sampling: Sampling) -> Callable[[Started | Piece], Started | Piece]:
    return lambda event: as_asked(event, sampling) if isinstance(event, Piece) else event


def _charged(in_vain: Started | Piece) -> Callable[[Started | Piece], Started | Piece]:
    """Adds what was computed in vain to what an answer says it computed."""

    def charged(event: Started | Piece) -> Started | Piece:
        if isinstance(event, Started) and isinstance(in_vain, Started):
            return event._replace(computed_tokens=event.computed_tokens + in_vain.computed_tokens)
        return event

    return charged
