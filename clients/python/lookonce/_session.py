"""Ask about images: question by question, in a batch, or in a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack, cast

from . import _requests
from ._batch import MAX_CONCURRENCY, ask_in_tasks, ask_in_threads, check_concurrency
from ._image import Image
from ._images import Images
from ._reference import ImageSource, read_image
from ._streaming import (
    AnswerReader,
    AnswerStream,
    AsyncAnswerStream,
    AsyncDescriptionStream,
    DescriptionReader,
    DescriptionStream,
)
from ._types import Answer, AskOptions, Context, ContextTokens, Saved, Turn

if TYPE_CHECKING:
    from ._transport import AsyncTransport, Transport


class _BaseSession:
    """Hold the images of a session."""

    def __init__(self, images: Images) -> None:
        self._images = images

    @property
    def saved(self) -> Saved:
        """The savings of this session's questions so far."""
        return self._images.saved.total

    def _split(self, questions: Iterable[str], max_concurrency: int) -> tuple[list[str], list[str]]:
        """Split a batch into questions to ask first, and those that then need no pixels."""
        check_concurrency(max_concurrency)
        batch = list(questions)
        num_first = 1 if any(image.reference.context_id is None for image in self._images.images) else 0
        return batch[:num_first], batch[num_first:]


class _BaseImageSession(_BaseSession):
    """Tell what is known of a session's only image."""

    @property
    def context_id(self) -> str | None:
        """The id of the image's context, 64 hex digits; None until it is known."""
        return self._image.reference.context_id

    @property
    def context(self) -> Context | None:
        """The image's context as `prepare` or `describe` last returned it; None before."""
        return self._image.context

    @property
    def description(self) -> str | None:
        """The model's description of the image; None before `prepare` or `describe`."""
        return self._image.context.description if self._image.context else None

    @property
    def _image(self) -> Image:
        return self._images.images[0]


class _Session(_BaseSession):
    """Ask about images."""

    def __init__(self, images: Images, transport: Transport) -> None:
        super().__init__(images)
        self._transport = transport

    def ask(self, question: str, **options: Unpack[AskOptions]) -> Answer:
        """Ask a question; the options are those of `AskOptions`."""
        return self._transport.run(self._images.ask([((), Turn(question, ""))], options))

    def ask_all(
        self, questions: Iterable[str], *, max_concurrency: int = MAX_CONCURRENCY, **options: Unpack[AskOptions]
    ) -> list[Answer]:
        """Ask several questions at once; returns the answers in the questions' order.

        The first question about a new image goes alone and takes the pixels; the others need none. The first error
        ends the batch: questions under way are waited for, and no further ones are asked.

        Args:
            questions: the questions, each of which stands alone.
            max_concurrency: how many are asked at a time.
            options: the options of every question.
        """
        first, rest = self._split(questions, max_concurrency)
        answers = [self.ask(question, **options) for question in first]
        return answers + ask_in_threads(lambda question: self.ask(question, **options), rest, max_concurrency)

    def stream(self, question: str, **options: Unpack[AskOptions]) -> AnswerStream:
        """Ask a question and stream the answer; the options are those of `AskOptions`."""
        return AnswerStream(self._transport, AnswerReader(self._images, [((), Turn(question, ""))], options))

    def chat(self, **options: Unpack[AskOptions]) -> Chat:
        """Begin a conversation about the images; the options are those of each question."""
        return Chat(self._images, self._transport, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.run(self._images.close(has_failed=error is not None))


class _AsyncSession(_BaseSession):
    """Do the same as `_Session`, for asyncio."""

    def __init__(self, images: Images, transport: AsyncTransport) -> None:
        super().__init__(images)
        self._transport = transport

    async def ask(self, question: str, **options: Unpack[AskOptions]) -> Answer:
        """Do the same as `ImageSession.ask`."""
        return await self._transport.run(self._images.ask([((), Turn(question, ""))], options))

    async def ask_all(
        self, questions: Iterable[str], *, max_concurrency: int = MAX_CONCURRENCY, **options: Unpack[AskOptions]
    ) -> list[Answer]:
        """Do the same as `ImageSession.ask_all`; an error cancels the questions under way."""
        first, rest = self._split(questions, max_concurrency)
        answers = [await self.ask(question, **options) for question in first]
        return answers + await ask_in_tasks(lambda question: self.ask(question, **options), rest, max_concurrency)

    def stream(self, question: str, **options: Unpack[AskOptions]) -> AsyncAnswerStream:
        """Do the same as `ImageSession.stream`."""
        return AsyncAnswerStream(self._transport, AnswerReader(self._images, [((), Turn(question, ""))], options))

    def chat(self, **options: Unpack[AskOptions]) -> AsyncChat:
        """Do the same as `ImageSession.chat`."""
        return AsyncChat(self._images, self._transport, options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.run(self._images.close(has_failed=error is not None))


class ImageSession(_Session, _BaseImageSession):
    """Ask about one image; get a session from `Client.image`. Threads may share it.

    The pixels go to the server until it names the image's context; from then on only the context's id does. If the
    server does not have the context any more, or cannot reach it, the pixels are sent again, once, and the question is
    answered all the same; a session that began with a context's id has no pixels, and raises the error. Each question
    stands alone; for a conversation see `chat`.

    The end of a `with` block changes nothing on the server: the context stays for others who ask about the same image,
    unless the session was made with `forget=True`.
    """

    def prepare(self) -> Context:
        """Have the server make the context now, so that the first answer is a hit too."""
        return self._transport.run(self._image.prepare())

    def describe(self) -> DescriptionStream:
        """Have the server make the context now, and stream the image's description."""
        return DescriptionStream(self._transport, DescriptionReader(self._image))

    def tokens(self, *, retention: float | None = None) -> ContextTokens:
        """Return the scores of the image's tokens, and which are kept; see `heatmap`."""
        return self._transport.run(self._image.tokens(retention))

    def heatmap(self, *, retention: float | None = None, over_image: bool = True) -> bytes:
        """Return a PNG file that shows which tokens are kept.

        Args:
            retention: shows what would be kept at this share, and makes no context; None for what the context keeps.
            over_image: draws over the image, if the session has its pixels; else on the bare grid of its tokens.
        """
        return self._transport.run(self._image.heatmap(retention, over_image=over_image))

    def forget(self) -> bool:
        """Delete the image's context from the server; returns whether there was one.

        A context that is still being made is waited for. The session goes on: it has the pixels to begin anew.
        """
        return self._transport.run(self._image.forget())


class AsyncImageSession(_AsyncSession, _BaseImageSession):
    """Do the same as `ImageSession`, for asyncio; get one from `AsyncClient.image`."""

    async def prepare(self) -> Context:
        """Do the same as `ImageSession.prepare`."""
        return await self._transport.run(self._image.prepare())

    def describe(self) -> AsyncDescriptionStream:
        """Do the same as `ImageSession.describe`."""
        return AsyncDescriptionStream(self._transport, DescriptionReader(self._image))

    async def tokens(self, *, retention: float | None = None) -> ContextTokens:
        """Do the same as `ImageSession.tokens`."""
        return await self._transport.run(self._image.tokens(retention))

    async def heatmap(self, *, retention: float | None = None, over_image: bool = True) -> bytes:
        """Do the same as `ImageSession.heatmap`."""
        return await self._transport.run(self._image.heatmap(retention, over_image=over_image))

    async def forget(self) -> bool:
        """Do the same as `ImageSession.forget`."""
        return await self._transport.run(self._image.forget())


class ImagesSession(_Session):
    """Ask about several images together; get a session from `Client.images`. Threads may share it.

    Each image is sent and recovered as in an `ImageSession`: by its pixels until its own context is known. The images
    stand before the first question, in their order.

    Attributes:
        images: a session of each image, for questions about it alone, its context, its description or its heat map.
    """

    def __init__(self, images: Images, transport: Transport, sources: Iterable[ImageSource | ImageSession]) -> None:
        self.images = tuple(image_session(source, images, transport) for source in sources)
        super().__init__(images.joined([session._image for session in self.images]), transport)

    def prepare(self) -> list[Context]:
        """Have the server make the contexts now that it does not have, one by one."""
        return self._transport.run(self._images.prepare())

    def forget(self) -> int:
        """Delete the images' contexts from the server; returns how many there were."""
        return self._transport.run(self._images.forget())


class AsyncImagesSession(_AsyncSession):
    """Do the same as `ImagesSession`, for asyncio; get one from `AsyncClient.images`."""

    def __init__(
        self, images: Images, transport: AsyncTransport, sources: Iterable[ImageSource | AsyncImageSession]
    ) -> None:
        self.images = tuple(async_image_session(source, images, transport) for source in sources)
        super().__init__(images.joined([session._image for session in self.images]), transport)

    async def prepare(self) -> list[Context]:
        """Do the same as `ImagesSession.prepare`."""
        return await self._transport.run(self._images.prepare())

    async def forget(self) -> int:
        """Do the same as `ImagesSession.forget`."""
        return await self._transport.run(self._images.forget())


class _BaseChat:
    """Hold a conversation's turns and the options of its questions."""

    def __init__(self, images: Images, options: AskOptions) -> None:
        _requests.check_options(options, AskOptions)
        self._images = images
        self._options = options
        self.turns: list[Turn] = []

    def _asked(self, turn: Turn) -> list[tuple[Sequence[Image], Turn]]:
        """Return the turns so far and the next one, each with its images."""
        return [([image for one in turn.images for image in one._images.images], turn) for turn in [*self.turns, turn]]

    def _merge(self, options: AskOptions) -> AskOptions:
        return cast(AskOptions, {**self._options, **options})

    def _add_turn(self, turn: Turn, answer: Answer) -> None:
        self.turns.append(replace(turn, answer=answer.text))

    def _reader(self, turn: Turn, options: AskOptions) -> AnswerReader:
        return AnswerReader(
            self._images,
            self._asked(turn),
            self._merge(options),
            on_answer=lambda answer: self._add_turn(turn, answer),
        )


class Chat(_BaseChat):
    """Hold a conversation; get it from `ImageSession.chat` or `ImagesSession.chat`.

    One question at a time. Each question goes with the turns before it; contexts do not depend on them, so a hit stays
    a hit. A question that fails, or whose stream is left early, is not remembered. Turns grow the prompt until the
    server refuses it (`context_length_exceeded`): drop some then. A turn's own images go with it.

    Attributes:
        turns: the turns so far, oldest first; change the list as you like.
    """

    def __init__(self, images: Images, transport: Transport, options: AskOptions) -> None:
        super().__init__(images, options)
        self._transport = transport

    def ask(self, question: str, *images: ImageSource | ImageSession, **options: Unpack[AskOptions]) -> Answer:
        """Ask the next question; the options are those of `AskOptions`.

        Args:
            question: the question to ask.
            images: further images, shown with this question and from then on.
            options: the options of this question.
        """
        turn = self._turn(question, images)
        answer = self._transport.run(self._images.ask(self._asked(turn), self._merge(options)))
        self._add_turn(turn, answer)
        return answer

    def stream(self, question: str, *images: ImageSource | ImageSession, **options: Unpack[AskOptions]) -> AnswerStream:
        """Ask the next question and stream the answer, which is remembered once complete."""
        return AnswerStream(self._transport, self._reader(self._turn(question, images), options))

    def _turn(self, question: str, images: Sequence[ImageSource | ImageSession]) -> Turn:
        sessions = [image_session(image, self._images, self._transport) for image in images]
        return Turn(question, "", tuple(sessions))


class AsyncChat(_BaseChat):
    """Do the same as `Chat`, for asyncio; get it from `AsyncImageSession.chat`."""

    def __init__(self, images: Images, transport: AsyncTransport, options: AskOptions) -> None:
        super().__init__(images, options)
        self._transport = transport

    async def ask(
        self, question: str, *images: ImageSource | AsyncImageSession, **options: Unpack[AskOptions]
    ) -> Answer:
        """Do the same as `Chat.ask`."""
        turn = self._turn(question, images)
        answer = await self._transport.run(self._images.ask(self._asked(turn), self._merge(options)))
        self._add_turn(turn, answer)
        return answer

    def stream(
        self, question: str, *images: ImageSource | AsyncImageSession, **options: Unpack[AskOptions]
    ) -> AsyncAnswerStream:
        """Do the same as `Chat.stream`."""
        return AsyncAnswerStream(self._transport, self._reader(self._turn(question, images), options))

    def _turn(self, question: str, images: Sequence[ImageSource | AsyncImageSession]) -> Turn:
        sessions = [async_image_session(image, self._images, self._transport) for image in images]
        return Turn(question, "", tuple(sessions))


def image_session(source: ImageSource | ImageSession, images: Images, transport: Transport) -> ImageSession:
    """Return a session of an image that is asked about with others."""
    if isinstance(source, ImageSession):
        images.check(source._image)
        return source
    return ImageSession(images.alone(read_image(source)), transport)


def async_image_session(
    source: ImageSource | AsyncImageSession, images: Images, transport: AsyncTransport
) -> AsyncImageSession:
    """Do the same as `image_session`, for asyncio."""
    if isinstance(source, AsyncImageSession):
        images.check(source._image)
        return source
    return AsyncImageSession(images.alone(read_image(source)), transport)
