"""The heart: for each question, find the image's context, and decide how it is answered.

- hit: an answer pass from the context alone; the image is neither decoded nor encoded;
- miss: a full pass now, at ordinary latency, while one describe pass a new image runs behind (`on_miss="full"`), or the
  describe pass first and the answer from its context (`on_miss="compress"`);
- being described: the question waits for that pass, and is a hit.

An answer comes from a context that was made exactly as the request wants it, or from the whole image. A request that
wants to bypass contexts gets a full pass, and nothing else happens.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from lookonce_cache import CompressedContext, ContextIdentity, Found, StoreUnavailableError
from lookonce_server.answers import begun
from lookonce_server.contexts import Contexts
from lookonce_server.conversation import Conversation
from lookonce_server.engines.base import Answer, Engine, Sampling
from lookonce_server.errors import ContextLostError, EngineError, InvalidRequestError
from lookonce_server.images import ContextReference, ImageBytes, Images, ImageSource
from lookonce_server.metrics import Metrics
from lookonce_server.options import NO_OPTIONS, ContextOptions, OnMiss

_log = logging.getLogger(__name__)


class Lookup(NamedTuple):
    """How a question is answered."""

    cache: Literal["hit", "miss", "bypass", "none"]  # none: no image was asked about
    tier: str | None  # of the store that had the context
    context_id: str | None
    context: CompressedContext | None


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
    """

    def __init__(
        self, engine: Engine, contexts: Contexts, *, images: Images, on_miss: OnMiss, metrics: Metrics
    ) -> None:
        self._engine = engine
        self._contexts = contexts
        self._images = images
        self._on_miss = on_miss
        self._metrics = metrics

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
        found = await self._contexts.find_or_wait(identity.key(), options.ttl)
        # What fails on the way to an answer from a context was counted where it happened: the full pass answers then.
        if found is not None:
            with suppress(ContextLostError):
                return await self._hit(found, question)
        elif (options.on_miss or self._on_miss) == "compress":
            with suppress(EngineError, StoreUnavailableError):
                making = self._contexts.make(identity, image, ttl=options.ttl)
                context = await self._contexts.made(making, image, options)
                return await self._answered(context, "miss", None, question)
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
        return await self._hit(found, question)

    async def _hit(self, found: Found, question: _Question) -> Session:
        return await self._answered(found.context, "hit", found.tier, question)

    async def _answered(
        self, context: CompressedContext, cache: Literal["hit", "miss"], tier: str | None, question: _Question
    ) -> Session:
        """The session of an answer from a context, begun: what is wrong with the context has shown by then."""
        conversation = question.conversation
        try:
            answers = await begun([self._engine.answer(context, conversation, one) for one in question.samplings])
        except ContextLostError as error:
            self._metrics.lost.inc()
            _log.warning("context %s: %s", context.id[:12], error)
            raise
        return Session(Lookup(cache, tier, context.id, context), answers)

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
        passes = [self._engine.full(question.conversation, pixels, one, question.tenant) for one in question.samplings]
        return Session(lookup, await begun(passes))


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
