"""Ask about one image: question by question, in a batch, or in a conversation."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack, cast

from . import _requests
from ._image import Image
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

MAX_CONCURRENCY = 4


class _BaseSession:
    """Hold the state of a session, and check its arguments."""

    def __init__(self, image: Image) -> None:
        self._image = image

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
    def saved(self) -> Saved:
        """The savings of this image's questions so far."""
        return self._image.saved.total

    def _split(self, questions: Iterable[str], max_concurrency: int) -> tuple[list[str], list[str]]:
        """Split a batch into questions to ask first, and those that then need no pixels."""
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency is {max_concurrency}; 1 or more is expected")
        batch = list(questions)
        num_first = 1 if self.context_id is None else 0
        return batch[:num_first], batch[num_first:]


class ImageSession(_BaseSession):
    """Ask about one image; get a session from `Client.image`. Threads may share it.

    The pixels go to the server until it names the image's context; from then on only the context's id does. If the
    server does not have the context any more, or cannot reach it, the pixels are sent again, once, and the question is
    answered all the same; a session that began with a context's id has no pixels, and raises the error. Each question
    stands alone; for a conversation see `chat`.

    The end of a `with` block changes nothing on the server: the context stays for others who ask about the same image,
    unless the session was made with `forget=True`.
    """

    def __init__(self, image: Image, transport: Transport) -> None:
        super().__init__(image)
        self._transport = transport

    def ask(self, question: str, **options: Unpack[AskOptions]) -> Answer:
        """Ask about the image; the options are those of `AskOptions`."""
        return self._transport.run(self._image.ask(question, options))

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
        if not rest:
            return answers

        from concurrent.futures import ThreadPoolExecutor

        errors: list[BaseException] = []

        def ask(question: str) -> list[Answer]:
            if errors:  # a thread takes its next question before anybody can cancel it
                return []
            try:
                return [self.ask(question, **options)]
            except BaseException as error:
                errors.append(error)
                raise

        pool = ThreadPoolExecutor(min(max_concurrency, len(rest)), thread_name_prefix="lookonce")
        try:
            futures = [pool.submit(ask, question) for question in rest]
            return answers + [answer for future in futures for answer in future.result()]
        finally:
            pool.shutdown(cancel_futures=True)

    def stream(self, question: str, **options: Unpack[AskOptions]) -> AnswerStream:
        """Ask about the image and stream the answer; options are those of `AskOptions`."""
        return AnswerStream(self._transport, AnswerReader(self._image, question, options))

    def chat(self, **options: Unpack[AskOptions]) -> Chat:
        """Begin a conversation about the image; the options are those of each question."""
        return Chat(self._image, self._transport, options)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.run(self._image.close(has_failed=error is not None))


class AsyncImageSession(_BaseSession):
    """Do the same as `ImageSession`, for asyncio; get one from `AsyncClient.image`."""

    def __init__(self, image: Image, transport: AsyncTransport) -> None:
        super().__init__(image)
        self._transport = transport

    async def ask(self, question: str, **options: Unpack[AskOptions]) -> Answer:
        """Do the same as `ImageSession.ask`."""
        return await self._transport.run(self._image.ask(question, options))

    async def ask_all(
        self, questions: Iterable[str], *, max_concurrency: int = MAX_CONCURRENCY, **options: Unpack[AskOptions]
    ) -> list[Answer]:
        """Do the same as `ImageSession.ask_all`; an error cancels the questions under way."""
        import asyncio

        first, rest = self._split(questions, max_concurrency)
        answers = [await self.ask(question, **options) for question in first]
        slots = asyncio.Semaphore(max_concurrency)
        errors: list[BaseException] = []

        async def ask(question: str) -> Answer:
            async with slots:
                if errors:  # a slot is free before the others are cancelled
                    raise errors[0]
                try:
                    return await self.ask(question, **options)
                except BaseException as error:
                    errors.append(error)
                    raise

        tasks = [asyncio.ensure_future(ask(question)) for question in rest]
        try:
            return answers + await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stream(self, question: str, **options: Unpack[AskOptions]) -> AsyncAnswerStream:
        """Do the same as `ImageSession.stream`."""
        return AsyncAnswerStream(self._transport, AnswerReader(self._image, question, options))

    def chat(self, **options: Unpack[AskOptions]) -> AsyncChat:
        """Do the same as `ImageSession.chat`."""
        return AsyncChat(self._image, self._transport, options)

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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.run(self._image.close(has_failed=error is not None))


class _BaseChat:
    """Hold a conversation's turns and the options of its questions."""

    def __init__(self, image: Image, options: AskOptions) -> None:
        _requests.check_options(options, AskOptions)
        self._image = image
        self._options = options
        self.turns: list[Turn] = []

    def _merge(self, options: AskOptions) -> AskOptions:
        return cast(AskOptions, {**self._options, **options})

    def _add_turn(self, question: str, answer: Answer) -> None:
        self.turns.append(Turn(question, answer.text))

    def _reader(self, question: str, options: AskOptions) -> AnswerReader:
        return AnswerReader(
            self._image,
            question,
            self._merge(options),
            self.turns,
            on_answer=lambda answer: self._add_turn(question, answer),
        )


class Chat(_BaseChat):
    """Hold a conversation about one image; get it from `ImageSession.chat`.

    One question at a time. Each question goes with the turns before it; the image's context does not depend on them, so
    a hit stays a hit. A question that fails, or whose stream is left early, is not remembered. Turns grow the prompt
    until the server refuses it (`context_length_exceeded`): drop some then.

    Attributes:
        turns: the turns so far, oldest first; change the list as you like.
    """

    def __init__(self, image: Image, transport: Transport, options: AskOptions) -> None:
        super().__init__(image, options)
        self._transport = transport

    def ask(self, question: str, **options: Unpack[AskOptions]) -> Answer:
        """Ask the next question; the options are those of `AskOptions`."""
        answer = self._transport.run(self._image.ask(question, self._merge(options), self.turns))
        self._add_turn(question, answer)
        return answer

    def stream(self, question: str, **options: Unpack[AskOptions]) -> AnswerStream:
        """Ask the next question and stream the answer, which is remembered once complete."""
        return AnswerStream(self._transport, self._reader(question, options))


class AsyncChat(_BaseChat):
    """Do the same as `Chat`, for asyncio; get it from `AsyncImageSession.chat`."""

    def __init__(self, image: Image, transport: AsyncTransport, options: AskOptions) -> None:
        super().__init__(image, options)
        self._transport = transport

    async def ask(self, question: str, **options: Unpack[AskOptions]) -> Answer:
        """Do the same as `Chat.ask`."""
        answer = await self._transport.run(self._image.ask(question, self._merge(options), self.turns))
        self._add_turn(question, answer)
        return answer

    def stream(self, question: str, **options: Unpack[AskOptions]) -> AsyncAnswerStream:
        """Do the same as `Chat.stream`."""
        return AsyncAnswerStream(self._transport, self._reader(question, options))
