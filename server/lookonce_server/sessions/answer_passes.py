"""Start the passes that answer a question: from contexts, or from whole images.

Where fallback is on, the first tokens of an answer from contexts are checked before any is sent; an uncertain answer is
replaced by a full pass, if all images are there.
"""

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from lookonce_server.concurrency import gather_in_order
from lookonce_server.engines.base import Answer, Engine, Piece, Started
from lookonce_server.engines.visuals import Visual, pixels_of
from lookonce_server.errors import ContextLostError, InvalidImageError
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ImageBytes
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.answer_streams import StartedAnswer, start_answers
from lookonce_server.sessions.fallback import Fallback, Outcome, request_margin, strip_margin
from lookonce_server.sessions.lookup import Lookup, without_contexts
from lookonce_server.sessions.question import Question

_log = logging.getLogger(__name__)


class Session(NamedTuple):
    """A question, and its answers on their way."""

    lookup: Lookup
    answers: tuple[Answer, ...]  # to the same prompt, each a pass of its own
    numbers: tuple[int, ...] = ()  # of the images given, among those of the lookup, where equal ones are one


class AnswerPasses:
    """Start answers.

    Args:
        engine: runs the model.
        images: decodes request images to RGB.
        metrics: counts lost contexts and fallbacks.
        fallback: when a question is asked again of the whole images.
        max_pixels: of all images of a full pass together, decoded.
    """

    def __init__(
        self, engine: Engine, images: Images, *, metrics: Metrics, fallback: Fallback, max_pixels: int
    ) -> None:
        self._engine = engine
        self._images = images
        self._metrics = metrics
        self._fallback = fallback
        self._max_pixels = max_pixels

    def without_images(self, question: Question) -> Session:
        """Answer from text alone; see `full`."""
        return Session(Lookup("none"), self._full_passes([], question))

    async def full(self, lookup: Lookup, images: Sequence[ImageBytes], question: Question) -> Session:
        """Answer from whole images."""
        started = await start_answers(self._full_passes(await self._decode(images), question))
        return Session(lookup, tuple(answer.events() for answer in started))

    async def from_contexts(self, lookup: Lookup, images: Sequence[ImageBytes] | None, question: Question) -> Session:
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
    ) -> tuple[Outcome, list[Visual] | None]:
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

    def _full_passes(self, pixels: Sequence[Visual], question: Question) -> tuple[Answer, ...]:
        full, conversation = self._engine.full, question.conversation
        return tuple(full(conversation, pixels, sampling, question.tenant) for sampling in question.samplings)

    async def _decode(self, images: Sequence[ImageBytes]) -> list[Visual]:
        """Decode images, by number.

        Raises:
            InvalidImageError: one cannot be decoded, or all together are too large to hold.
        """
        pixels = 0

        async def decode(image: ImageBytes) -> Visual:
            nonlocal pixels
            picture = await self._images.decode(image)
            pixels += pixels_of(picture)
            if pixels > self._max_pixels and len(images) > 1:
                raise InvalidImageError(
                    f"The images have more pixels together than the limit of {self._max_pixels}.", param="messages"
                )
            return picture

        return await gather_in_order(map(decode, images))


def _add_discarded_tokens(event: Started | Piece, discarded: Started | Piece) -> Started | Piece:
    """Add the tokens computed for a discarded answer to its replacement.

    Args:
        event: of the answer that replaces it.
        discarded: first event of the discarded answer.
    """
    if isinstance(event, Started) and isinstance(discarded, Started):
        return replace(event, computed_tokens=event.computed_tokens + discarded.computed_tokens)
    return event
