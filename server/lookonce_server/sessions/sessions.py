"""Decide how each question is answered, and start its answers.

Each image of a question is looked up by itself, whatever its order and company:

- all are known: an answer pass from their contexts alone, joined in their order; no image is decoded or encoded;
- some are new: a full pass now, at ordinary latency, with one describe pass per new image behind it (`on_miss="full"`);
  or the describe passes first, and the answer from all contexts (`on_miss="compress"`, and where a full pass cannot be,
  since an image came by its context's id and is not kept);
- some are being described: the question waits for these passes, all at once, and finds their contexts.

An answer comes from contexts that were made exactly as the request asks, or from the whole images. A request that
bypasses contexts gets a full pass, and nothing else happens. Where fallback is on, the first tokens of an answer from
contexts are checked before any is sent; an uncertain answer is replaced by a full pass, if all images are there.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from PIL import Image

from lookonce_cache import CompressedContext, ContextKey, StoreHit, StoreUnavailableError
from lookonce_server.concurrency import gather_in_order
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
from lookonce_server.sessions.answer_streams import StartedAnswer, start_answers
from lookonce_server.sessions.context_options import NO_OPTIONS, ContextOptions, OnMiss
from lookonce_server.sessions.contexts import Contexts
from lookonce_server.sessions.describe_queue import DescribeJob
from lookonce_server.sessions.fallback import Fallback, Outcome, request_margin, strip_margin
from lookonce_server.sessions.lookup import ImageLookup, Lookup, joined, whole, without_contexts
from lookonce_server.sessions.question import MergedImages, Question, QuestionImage, SentImage, merge_images

_log = logging.getLogger(__name__)
_FALLBACK = Fallback()
_MAX_PIXELS = 160_000_000
# Why an image is not described by now, though it could be: counted and logged where it happened.
_NOT_DESCRIBED = (EngineError, StoreUnavailableError, ContextNotKeptError, ShuttingDownError)


class Session(NamedTuple):
    """A question, and its answers on their way."""

    lookup: Lookup
    answers: tuple[Answer, ...]  # to the same prompt, each a pass of its own
    numbers: tuple[int, ...] = ()  # of the images given, among those of the lookup, where equal ones are one


class _Found(NamedTuple):
    """An image's lookup, and the job that makes its context if there is none."""

    image: QuestionImage
    lookup: ImageLookup
    job: DescribeJob | None = None


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
        self._images = images
        self._on_miss = on_miss
        self._metrics = metrics
        self._fallback = fallback
        self._max_pixels = max_pixels

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
            SentImage(image, self._contexts.identity(tenant, image.data, options))
            if isinstance(image, ImageBytes)
            else image
            for image in images
        ]
        return merge_images(conversation, identified)

    async def _route(self, question: Question) -> Session:
        """Route a question to an answer pass, a full pass or describe passes."""
        if not question.images:
            return Session(Lookup("none"), self._full_passes([], question))
        if question.options.bypass:
            return await self._bypass(question)
        may_join = self._may_join(question)
        describe_first = may_join and self._describes_first(question)
        full_has_started = asyncio.Event()
        try:
            start_after = None if describe_first else full_has_started
            found = await gather_in_order(self._find(image, question, start_after) for image in question.images)
            if may_join and (describe_first or not any(one.job for one in found)):
                return await self._answer_from_contexts(found, question)
            images = await self._whole_images(question)
            if images is not None:
                return await self._answer_full(whole("miss", [one.lookup for one in found]), images, question)
            if not may_join:
                raise InvalidRequestError(
                    "Several images must be sent themselves here, not by the ids of their contexts, which cannot be"
                    f" joined. {self._engine.facts.unjoinable}",
                    param="messages",
                )
            full_has_started.set()  # it never will: an image is not kept after all
            return await self._answer_from_contexts(found, question)
        finally:
            full_has_started.set()

    def _may_join(self, question: Question) -> bool:
        """Return whether an answer may come from the contexts of these images."""
        return len(question.images) == 1 or self._engine.facts.unjoinable is None

    def _describes_first(self, question: Question) -> bool:
        """Return whether new images are described before the answer, not behind it."""
        may_have_all = self._contexts.keeps_images or not question.references
        return (question.options.on_miss or self._on_miss) == "compress" or not may_have_all

    async def _find(self, image: QuestionImage, question: Question, start_after: asyncio.Event | None) -> _Found:
        """Look up the context of an image, and submit the job that makes it if there is none.

        The job is submitted at once: a question that comes meanwhile waits for it, and is a hit.

        Args:
            image: one of the question's.
            question: with options.
            start_after: see `DescribeQueue.submit`.
        """
        options = question.options
        if isinstance(image, ContextReference):
            named = await self._contexts.get(question.tenant, image.context_id, options.ttl)
            _check_options(named.context, options)
            return _Found(image, _hit(named))
        hit = await self._contexts.get_or_wait(image.key, options.ttl)
        # Nothing is awaited between a miss and the submit of its job: see `DescribeQueue.wait`.
        if hit is not None:
            return _Found(image, _hit(hit))
        queue = self._contexts.describe_queue
        job = queue.submit(image.identity, image.image, ttl=options.ttl, start_after=start_after)
        return _Found(image, ImageLookup("miss", image.context_id), job)

    async def _bypass(self, question: Question) -> Session:
        """Answer from whole images, without a lookup."""
        place = question.options.place
        if question.references:
            raise InvalidRequestError(
                f"{place}cache: 'bypass' needs the image itself, not the id of its context.", param=f"{place}cache"
            )
        images = [image.image for image in question.images if isinstance(image, SentImage)]
        return await self._answer_full(whole("bypass", [ImageLookup("bypass")] * len(images)), images, question)

    async def _answer_from_contexts(self, found: Sequence[_Found], question: Question) -> Session:
        """Answer from the contexts of all images, once they are made, or by a full pass if one cannot be had."""
        try:
            images = await gather_in_order(self._described(one, question.options) for one in found)
        except _NOT_DESCRIBED as error:
            return await self._answer_instead(error, found, question)
        kept = await self._whole_images(question) if self._fallback.is_enabled(question.options) else None
        try:
            return await self._answer(joined(images), kept, question)
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
            return await self._answer_full(whole("miss", [one.lookup for one in found]), images, question)
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

    async def _decode(self, images: Sequence[ImageBytes]) -> list[Image.Image]:
        """Decode images, by number.

        Raises:
            InvalidImageError: one cannot be decoded, or all together are too large to hold.
        """
        pixels = 0

        async def decode(image: ImageBytes) -> Image.Image:
            nonlocal pixels
            picture = await self._images.decode(image)
            pixels += picture.width * picture.height
            if pixels > self._max_pixels and len(images) > 1:
                raise InvalidImageError(
                    f"The images have more pixels together than the limit of {self._max_pixels}.", param="messages"
                )
            return picture

        return await gather_in_order(map(decode, images))

    async def _answer_full(self, lookup: Lookup, images: Sequence[ImageBytes], question: Question) -> Session:
        """Answer from whole images."""
        started = await start_answers(self._full_passes(await self._decode(images), question))
        return Session(lookup, tuple(answer.events() for answer in started))

    async def _answer(self, lookup: Lookup, images: Sequence[ImageBytes] | None, question: Question) -> Session:
        """Answer from contexts, started: one that cannot be used has shown by then.

        Args:
            lookup: with the contexts.
            images: which an uncertain answer is asked again of, if they are all there.
            question: with options and samplings.
        """
        checked = self._fallback.is_enabled(question.options)
        samplings = tuple(map(request_margin, question.samplings)) if checked else question.samplings
        passes = [self._engine.answer(lookup.contexts, question.conversation, sampling) for sampling in samplings]
        try:
            answers = await start_answers(passes, 1 + self._fallback.tokens if checked else 1)
        except ContextLostError as error:
            self._metrics.lost.inc()
            _log.warning("context %s was lost: %s", ", ".join(one.id[:12] for one in lookup.contexts), error)
            raise
        if checked:
            return await self._answer_or_fall_back(answers, lookup, images, question)
        return Session(lookup, tuple(answer.events() for answer in answers))

    async def _answer_or_fall_back(
        self,
        answers: tuple[StartedAnswer, ...],
        lookup: Lookup,
        images: Sequence[ImageBytes] | None,
        question: Question,
    ) -> Session:
        """Send started answers, or full passes in their place if one is uncertain."""
        async with AsyncExitStack() as stack:
            for answer in answers:
                stack.push_async_callback(answer.rest.aclose)
            outcome, pixels = await self._needs_full_pass(answers, images)
            self._metrics.fallbacks.labels(outcome).inc()
            lookup = lookup._replace(fallback=outcome)
            if pixels is None:
                stack.pop_all()
                pairs = zip(answers, question.samplings, strict=True)
                return Session(
                    lookup, tuple(answer.events(partial(strip_margin, sampling=sampling)) for answer, sampling in pairs)
                )
        full = await start_answers(self._full_passes(pixels, question))
        discarded = [answer.first[0] for answer in answers]
        return Session(
            lookup._replace(images=without_contexts(lookup.images)),
            tuple(
                answer.events(partial(_add_discarded_tokens, discarded=started))
                for answer, started in zip(full, discarded, strict=True)
            ),
        )

    async def _needs_full_pass(
        self, answers: tuple[StartedAnswer, ...], images: Sequence[ImageBytes] | None
    ) -> tuple[Outcome, list[Image.Image] | None]:
        """Decide on a full pass in place of answers; return pixels if so."""
        if not self._fallback.is_uncertain(answers):
            return "none", None
        started = answers[0].first[0]
        assert isinstance(started, Started)
        if started.full_prompt_tokens >= self._engine.facts.max_tokens:
            return "no_room", None
        if images is None:
            return "no_image", None
        try:
            return "full_pass", await self._decode(images)
        except InvalidImageError as error:  # the answer from the contexts is there all the same
            _log.warning("a question cannot be asked again of the whole images: %s", error)
            return "no_image", None

    def _full_passes(self, pixels: Sequence[Image.Image], question: Question) -> tuple[Answer, ...]:
        full, conversation = self._engine.full, question.conversation
        return tuple(full(conversation, pixels, sampling, question.tenant) for sampling in question.samplings)


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


def _add_discarded_tokens(event: Started | Piece, discarded: Started | Piece) -> Started | Piece:
    """Add the tokens computed for a discarded answer to its replacement.

    Args:
        event: of the answer that replaces it.
        discarded: first event of the discarded answer.
    """
    if isinstance(event, Started) and isinstance(discarded, Started):
        return event._replace(computed_tokens=event.computed_tokens + discarded.computed_tokens)
    return event
