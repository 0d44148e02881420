"""Decide how each question is answered, and start its answers.

Each image of a question is looked up by itself, whatever its order and company:

- all are known: an answer pass from their contexts alone, joined in their order; no image is decoded or encoded;
- some are new: a full pass now, at ordinary latency, with one describe pass per new image behind it (`on_miss="full"`);
  or the describe passes first, and the answer from all contexts (`on_miss="compress"`, and where a full pass cannot be,
  since an image came by its context's id and is not kept);
- some are being described: the question waits for these passes, all at once, and finds their contexts.

An answer comes from contexts that were made exactly as the request asks, or from the whole images. A request that
bypasses contexts gets a full pass, and nothing else happens.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from lookonce_cache import CompressedContext, ContextKey, StoreHit, StoreUnavailableError
from lookonce_server.concurrency import gather_in_order
from lookonce_server.engines.base import Engine, Sampling
from lookonce_server.engines.conversation import Conversation
from lookonce_server.errors import (
    ContextLostError,
    ContextNotFoundError,
    ContextNotKeptError,
    ContextOutdatedError,
    EngineError,
    InvalidRequestError,
    ShuttingDownError,
)
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ContextReference, ImageBytes, ImageSource
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.answer_passes import AnswerPasses, Session
from lookonce_server.sessions.context_options import NO_OPTIONS, ContextOptions, OnMiss
from lookonce_server.sessions.contexts import Contexts
from lookonce_server.sessions.describe_queue import DescribeJob
from lookonce_server.sessions.fallback import Fallback
from lookonce_server.sessions.lookup import ImageLookup, joined, whole
from lookonce_server.sessions.question import MergedImages, Question, QuestionImage, SentImage, merge_images

_FALLBACK = Fallback()
_MAX_PIXELS = 160_000_000
# Why an image is not described by now, though it could be: counted and logged where it happened.
_NOT_DESCRIBED = (EngineError, StoreUnavailableError, ContextNotKeptError, ShuttingDownError)


class _Found(NamedTuple):
    """An image's lookup, and the job that makes its context if there is none."""

    image: QuestionImage
    lookup: ImageLookup
    job: DescribeJob | None = None


class _FullPass(NamedTuple):
    """A full pass that new images are described behind.

    Attributes:
        is_certain: set once an image is new: others that are being described are not waited for.
        has_started: set once describe passes may start.
    """

    is_certain: asyncio.Event
    has_started: asyncio.Event


class Sessions:
    """Answer questions about images.

    Args:
        engine: runs the model.
        contexts: of the images.
        images: decodes request images to RGB.
        on_miss: the answer to a question about a new image, unless the request chooses.
        metrics: counts lost contexts and fallbacks.
        fallback: when a question is asked again of the whole images.
        max_pixels: of all images of a full pass together, decoded.
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
        max_pixels: int = _MAX_PIXELS,
    ) -> None:
        self._engine = engine
        self._contexts = contexts
        self._on_miss = on_miss
        self._fallback = fallback
        self._passes = AnswerPasses(engine, images, metrics=metrics, fallback=fallback, max_pixels=max_pixels)

    async def ask(
        self,
        conversation: Conversation,
        images: Sequence[ImageSource],
        sampling: Sampling,
        *,
        tenant: str,
        options: ContextOptions = NO_OPTIONS,
        n: int = 1,
    ) -> Session:
        """Answer a question.

        A seed is the first answer's; each further one has the next: answer i is what seed + i alone would have given.

        Args:
            conversation: the question, and what came before it.
            images: what the conversation is about, by number.
            sampling: how answers are decoded.
            tenant: owner of the contexts.
            options: the request's own choices for the contexts.
            n: number of answers, all from one lookup.

        Raises:
            InvalidRequestError: the options are beyond the limits, or contradict a context named; answers cannot be
                held to the schema; or neither can the contexts be joined, nor the whole images be had.
            PromptTooLongError: its text alone cannot fit the model.
            ContextNotFoundError: a context named does not exist.
            StoreUnavailableError: the store that may have a context named does not answer.
            InvalidImageError: a new image cannot be decoded; of several, the first in order.
            OverloadedError: the queue is full.
            ContextLostError: the contexts were found, one was lost on its way to the engine, and an image is not there.
        """
        self._contexts.check(options)
        self._engine.facts.check_length(conversation)
        if sampling.json_schema is not None:
            await self._engine.check_schema(sampling.json_schema)
        merged = MergedImages(conversation, (), ())
        if images:
            merged = await asyncio.to_thread(self._merge, conversation, images, tenant, options)
        samplings = tuple(_shift_seed(sampling, i) for i in range(n))
        question = Question(merged.conversation, merged.images, samplings, tenant, options)
        return (await self._route(question))._replace(numbers=merged.numbers)

    def _merge(
        self, conversation: Conversation, images: Sequence[ImageSource], tenant: str, options: ContextOptions
    ) -> MergedImages:
        """Identify images by their bytes, and merge equal ones."""
        identified: list[QuestionImage] = [
            SentImage(image, self._contexts.identity(tenant, image, options))
            if isinstance(image, ImageBytes)
            else image
            for image in images
        ]
        return merge_images(conversation, identified)

    async def _route(self, question: Question) -> Session:
        """Route a question to an answer pass, a full pass or describe passes."""
        if not question.images:
            return self._passes.without_images(question)
        if question.options.bypass:
            return await self._bypass(question)
        may_join = len(question.images) == 1 or self._engine.facts.unjoinable is None
        if may_join and (question.options.on_miss or self._on_miss) == "compress":
            found = await gather_in_order(self._find(image, question) for image in question.images)
            return await self._answer_from_contexts(found, question)
        full_pass = _FullPass(asyncio.Event(), asyncio.Event())
        if not may_join:
            full_pass.is_certain.set()
        if question.references:  # whose describe passes it may wait for: it must not hold up those who wait for its own
            full_pass.has_started.set()
        try:
            found = await gather_in_order(self._find(image, question, full_pass) for image in question.images)
            if may_join and not any(one.job for one in found):
                return await self._answer_from_contexts(found, question)
            images = await self._whole_images(question)
            if images is not None:
                return await self._passes.full(whole("miss", [one.lookup for one in found]), images, question)
            # An image came by its context's id, and is not kept.
            if not may_join:
                raise InvalidRequestError(
                    "Several images must be sent themselves here, not by the ids of their contexts, which cannot be"
                    f" joined. {self._engine.facts.unjoinable}",
                    param="messages",
                )
            return await self._answer_from_contexts(found, question)
        finally:
            full_pass.has_started.set()

    async def _find(self, image: QuestionImage, question: Question, full_pass: _FullPass | None = None) -> _Found:
        """Look up the context of an image, and submit the job that makes it if there is none.

        The job is submitted at once: a question that comes meanwhile waits for it, and is a hit.

        Args:
            image: one of the question's.
            question: with options.
            full_pass: that a new image is described behind; None: before the answer.
        """
        options = question.options
        if isinstance(image, ContextReference):
            named = await self._contexts.get(question.tenant, image.context_id, options.ttl)
            _check_options(named.context, options)
            return _Found(image, _hit(named))
        unless = full_pass and full_pass.is_certain
        hit = await self._contexts.get_or_wait(image.key, options.ttl, unless=unless)
        # Nothing is awaited between a miss and the submit of its job: see `DescribeQueue.wait`.
        if hit is not None:
            return _Found(image, _hit(hit))
        queue, start_after = self._contexts.describe_queue, full_pass and full_pass.has_started
        job = queue.submit(image.identity, image.image, ttl=options.ttl, start_after=start_after)
        if full_pass is not None:
            full_pass.is_certain.set()
        return _Found(image, ImageLookup("miss", image.context_id, retention=image.identity.retention), job)

    async def _bypass(self, question: Question) -> Session:
        """Answer from whole images, without a lookup."""
        if question.references:
            field = question.options.bypass_field or f"{question.options.place}cache"
            raise InvalidRequestError(
                f"{field}: the whole image needs the image itself, not the id of its context.", param=field
            )
        images = [image.image for image in question.images if isinstance(image, SentImage)]
        return await self._passes.full(whole("bypass", [ImageLookup("bypass")] * len(images)), images, question)

    async def _answer_from_contexts(self, found: Sequence[_Found], question: Question) -> Session:
        """Answer from the contexts of all images, once they are made, or by a full pass if one cannot be had."""
        try:
            images = await gather_in_order(self._described(one, question.options) for one in found)
        except _NOT_DESCRIBED as error:
            return await self._answer_instead(error, found, question)
        kept = await self._whole_images(question) if self._fallback.is_enabled(question.options) else None
        try:
            return await self._passes.from_contexts(joined(images), kept, question)
        except ContextLostError as error:  # counted and logged by now
            return await self._answer_instead(error, found, question)

    async def _described(self, found: _Found, options: ContextOptions) -> ImageLookup:
        """Return an image's lookup with its context, once that is made."""
        if found.job is None:
            return found.lookup
        assert isinstance(found.image, SentImage)
        context = await self._contexts.wait_for(found.job, found.image.image, options)
        return found.lookup._replace(context_id=context.id, context=context)

    async def _answer_instead(self, error: Exception, found: Sequence[_Found], question: Question) -> Session:
        """Answer from whole images where contexts fail, or raise the error if an image is not there."""
        images = await self._whole_images(question)
        if images is not None:
            return await self._passes.full(whole("miss", [one.lookup for one in found]), images, question)
        if isinstance(error, ContextOutdatedError):  # the template's date changed just now
            raise ContextNotFoundError(question.references[0]) from None
        raise error

    async def _whole_images(self, question: Question) -> list[ImageBytes] | None:
        """Return the bytes of all images, by number; None if those of one are neither sent nor kept."""
        images = await gather_in_order(self._whole_image(image, question) for image in question.images)
        there = [image for image in images if image is not None]
        return there if len(there) == len(images) else None

    async def _whole_image(self, image: QuestionImage, question: Question) -> ImageBytes | None:
        if isinstance(image, SentImage):
            return image.image
        return await self._contexts.kept_image(ContextKey(question.tenant, image.context_id), question.options.ttl)


def _hit(hit: StoreHit) -> ImageLookup:
    return ImageLookup("hit", hit.context.id, hit.tier, hit.context)


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
