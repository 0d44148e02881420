"""One image, many questions."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from ._chat import AsyncChat, Chat
from ._image_flows import Image
from ._readers import AnswerReader, DescriptionReader
from ._saved import Saved
from ._stream import AnswerStream, AsyncAnswerStream, AsyncDescriptionStream, DescriptionStream
from ._types import Answer, AskOptions, Context, ContextTokens

if TYPE_CHECKING:
    from ._transport import AsyncTransport, Transport

MAX_CONCURRENCY = 4


class _KnownOfAnImage:
    """What a session knows without asking."""

    def __init__(self, image: Image) -> None:
        self._image = image

    @property
    def context_id(self) -> str | None:
        """The image's context, 64 hex digits, once known."""
        return self._image.reference.context_id

    @property
    def context(self) -> Context | None:
        """The image's context as `prepare` or `describe` last had it; None before."""
        return self._image.context

    @property
    def description(self) -> str | None:
        """What the model said about the image when it looked; None before `prepare` or `describe`."""
        return self._image.context.description if self._image.context else None

    @property
    def saved(self) -> Saved:
        """What the questions about this image saved so far."""
        return self._image.tally.saved

    def _batch(self, questions: Iterable[str], max_concurrency: int) -> tuple[list[str], list[str]]:
        """Those to ask before the others, so that these need no pixels, and the others."""
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency is {max_concurrency}; 1 or more is expected")
        asked = list(questions)
        first = 1 if self.context_id is None else 0
        return asked[:first], asked[first:]


class ImageSession(_KnownOfAnImage):
    """One image to ask about; get it from `Client.image`. Any number of threads may use it.

    The pixels go to the server until it names the image's context; from then on only the context's name does.
    Should the server not have the context any more, or not reach it, the pixels are sent again, once, and the question
    is answered all the same; a session that began with a context's name has none to send, and raises the error.
    Each question stands alone; for a conversation see `chat`.

    As a `with` block it ends nothing on the server: the context stays for others who ask about the same image, unless
    the session was made with `forget=True`.
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
        ends the batch: what is under way is waited for, and what was not asked yet is not.

        Args:
            questions: each stands alone.
            max_concurrency: how many are asked at a time.
            options: of every question.
        """
        first, others = self._batch(questions, max_concurrency)
        answers = [self.ask(question, **options) for question in first]
        if not others:
            return answers

        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(min(max_concurrency, len(others)), thread_name_prefix="lookonce")
        try:
            asked = [pool.submit(self.ask, question, **options) for question in others]
            return answers + [one.result() for one in asked]
        finally:
            pool.shutdown(cancel_futures=True)

    def stream(self, question: str, **options: Unpack[AskOptions]) -> AnswerStream:
        """Ask about the image and take the answer's text as it comes; the options are those of `AskOptions`."""
        return AnswerStream(self._transport, AnswerReader(self._image, question, options))

    def chat(self, **options: Unpack[AskOptions]) -> Chat:
        """Begin a conversation about the image; the options are those of each of its questions."""
        return Chat(self._image, self._transport, options)

    def prepare(self) -> Context:
        """Have the server look at the image now, so that the first answer too comes from the context."""
        return self._transport.run(self._image.prepare())

    def describe(self) -> DescriptionStream:
        """The same, with the image's description as the model generates it."""
        return DescriptionStream(self._transport, DescriptionReader(self._image))

    def tokens(self, *, retention: float | None = None) -> ContextTokens:
        """How much each of the image's tokens counted, and which were kept; see `heatmap`."""
        return self._transport.run(self._image.tokens(retention))

    def heatmap(self, *, retention: float | None = None, over_image: bool = True) -> bytes:
        """A PNG file of what was kept.

        Args:
            retention: what would be kept at this share, and nothing is made; None for what the context keeps.
            over_image: drawn over the image, where the session has its pixels; on the bare grid of its tokens else.
        """
        return self._transport.run(self._image.heatmap(retention, over_image=over_image))

    def forget(self) -> bool:
        """Delete the image's context from the server; tells whether there was one.

        A context that is still being made is waited for. The session goes on: it has the pixels to begin anew.
        """
        return self._transport.run(self._image.forget())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.run(self._image.leave(failed=error is not None))


class AsyncImageSession(_KnownOfAnImage):
    """As `ImageSession`, for asyncio; get it from `AsyncClient.image`."""

    def __init__(self, image: Image, transport: AsyncTransport) -> None:
        super().__init__(image)
        self._transport = transport

    async def ask(self, question: str, **options: Unpack[AskOptions]) -> Answer:
        """As `ImageSession.ask`."""
        return await self._transport.run(self._image.ask(question, options))

    async def ask_all(
        self, questions: Iterable[str], *, max_concurrency: int = MAX_CONCURRENCY, **options: Unpack[AskOptions]
    ) -> list[Answer]:
        """As `ImageSession.ask_all`; what is under way when one fails is cancelled."""
        import asyncio

        first, others = self._batch(questions, max_concurrency)
        answers = [await self.ask(question, **options) for question in first]
        limit = asyncio.Semaphore(max_concurrency)

        async def ask(question: str) -> Answer:
            async with limit:
                return await self.ask(question, **options)

        asked = [asyncio.ensure_future(ask(question)) for question in others]
        try:
            return answers + await asyncio.gather(*asked)
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    def stream(self, question: str, **options: Unpack[AskOptions]) -> AsyncAnswerStream:
        """As `ImageSession.stream`."""
        return AsyncAnswerStream(self._transport, AnswerReader(self._image, question, options))

    def chat(self, **options: Unpack[AskOptions]) -> AsyncChat:
        """As `ImageSession.chat`."""
        return AsyncChat(self._image, self._transport, options)

    async def prepare(self) -> Context:
        """As `ImageSession.prepare`."""
        return await self._transport.run(self._image.prepare())

    def describe(self) -> AsyncDescriptionStream:
        """As `ImageSession.describe`."""
        return AsyncDescriptionStream(self._transport, DescriptionReader(self._image))

    async def tokens(self, *, retention: float | None = None) -> ContextTokens:
        """As `ImageSession.tokens`."""
        return await self._transport.run(self._image.tokens(retention))

    async def heatmap(self, *, retention: float | None = None, over_image: bool = True) -> bytes:
        """As `ImageSession.heatmap`."""
        return await self._transport.run(self._image.heatmap(retention, over_image=over_image))

    async def forget(self) -> bool:
        """As `ImageSession.forget`."""
        return await self._transport.run(self._image.forget())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.run(self._image.leave(failed=error is not None))
