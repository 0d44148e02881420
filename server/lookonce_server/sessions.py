"""The heart: for each question, find the image's context, and decide how it is answered.

- hit: an answer pass from the context alone; the image is neither decoded nor encoded;
- miss: a full pass now, at ordinary latency, while one describe pass a new image runs behind (`on_miss="full"`), or the
  describe pass first and the answer from its context (`on_miss="compress"`);
- being described: the question waits for that pass, and is a hit.
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
from lookonce_server.errors import ContextLostError, EngineError
from lookonce_server.images import ContextReference, ImageBytes, Images, ImageSource
from lookonce_server.metrics import Metrics
from lookonce_server.options import ContextOptions, OnMiss

_log = logging.getLogger(__name__)


class Lookup(NamedTuple):
    """How a question is answered."""

    cache: Literal["hit", "miss", "none"]  # none: no image was asked about
    tier: str | None  # of the store that had the context
    context_id: str | None
    context: CompressedContext | None


class Session(NamedTuple):
    """A question under way."""

    lookup: Lookup
    answers: tuple[Answer, ...]  # to the same prompt, each a pass of its own


_DEFAULT = ContextOptions()


@dataclass(frozen=True, slots=True)
class _Question:
    conversation: Conversation
    samplings: tuple[Sampling, ...]  # one an answer
    tenant: str


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
        options: ContextOptions = _DEFAULT,
        n: int = 1,
    ) -> Session:
        """Decide how a question is answered, once for all of its `n` answers.

        A seed is the first answer's; each further one has the next: answer i is what seed + i alone would have given.

        Raises:
            PromptTooLongError: its text alone cannot fit the model.
            ContextNotFoundError: the context named does not exist.
            StoreUnavailableError: the store that may have the context named does not answer.
            InvalidImageError: a new image cannot be decoded.
            InvalidRequestError: answers cannot be held to the schema.
            OverloadedError: the queue is full.
            ContextLostError: the context named was found, and then lost on its way to the engine.
        """
        self._engine.facts.check_length(conversation)
        if sampling.json_schema is not None:
            await self._engine.check_schema(sampling.json_schema)
        question = _Question(conversation, tuple(_of_answer(sampling, i) for i in range(n)), tenant)
        if image is None:
            answers = tuple(self._engine.full(conversation, None, one, tenant) for one in question.samplings)
            return Session(Lookup("none", None, None, None), answers)
        if isinstance(image, ContextReference):
            return await self._hit(await self._contexts.get(tenant, image.context_id), question)
        identity = await asyncio.to_thread(self._contexts.identity, tenant, image.data)
        found = await self._contexts.find_or_wait(identity.key())
        # What fails on the way to an answer from a context was counted where it happened: the full pass answers then.
        if found is not None:
            with suppress(ContextLostError):
                return await self._hit(found, question)
            return await self._full(identity, image, question)
        if (options.on_miss or self._on_miss) == "compress":
            with suppress(EngineError, StoreUnavailableError):
                # Shielded: others may wait for the same pass, and the next question wants its context.
                context = await asyncio.shield(self._contexts.make(identity, image))
                return await self._answered(context, "miss", None, question)
            return await self._full(identity, image, question)
        return await self._full_and_describe_behind(identity, image, question)

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
        self._contexts.make(identity, image, after=full_has_begun)
        try:
            return await self._full(identity, image, question)
        finally:
            full_has_begun.set()

    async def _full(self, identity: ContextIdentity, image: ImageBytes, question: _Question) -> Session:
        pixels = await self._images.decode(image)
        passes = [self._engine.full(question.conversation, pixels, one, question.tenant) for one in question.samplings]
        return Session(Lookup("miss", None, identity.key().id, None), await begun(passes))


def _of_answer(sampling: Sampling, i: int) -> Sampling:
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + i)
