"""A conversation about one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack, cast

from . import _protocol
from ._image_flows import Image
from ._readers import AnswerReader
from ._stream import AnswerStream, AsyncAnswerStream
from ._types import Answer, AskOptions, Turn

if TYPE_CHECKING:
    from ._transport import AsyncTransport, Transport


class _Conversation:
    """What was said, and what each question has beside its text."""

    def __init__(self, image: Image, options: AskOptions) -> None:
        _protocol.check_options(options, AskOptions)
        self._image = image
        self._options = options
        self.turns: list[Turn] = []

    def _merged(self, options: AskOptions) -> AskOptions:
        return cast(AskOptions, {**self._options, **options})

    def _answered(self, question: str, answer: Answer) -> None:
        self.turns.append(Turn(question, answer.text))

    def _reader(self, question: str, options: AskOptions) -> AnswerReader:
        return AnswerReader(
            self._image,
            question,
            self._merged(options),
            self.turns,
            on_answer=lambda answer: self._answered(question, answer),
        )


class Chat(_Conversation):
    """A conversation about one image; get it from `ImageSession.chat`. One question at a time.

    Each question goes with the turns before it; the image's context is the same whatever was said, so a hit stays a
    hit. A question that fails, or whose stream is left early, is not remembered. Turns grow the prompt until the server
    refuses it (`context_length_exceeded`): drop some then.

    Attributes:
        turns: what was said so far, oldest first; a list to change as you like.
    """

    def __init__(self, image: Image, transport: Transport, options: AskOptions) -> None:
        super().__init__(image, options)
        self._transport = transport

    def ask(self, question: str, **options: Unpack[AskOptions]) -> Answer:
        """Ask the next question; the options are those of `AskOptions`."""
        answer = self._transport.run(self._image.ask(question, self._merged(options), self.turns))
        self._answered(question, answer)
        return answer

    def stream(self, question: str, **options: Unpack[AskOptions]) -> AnswerStream:
        """Ask the next question and take the answer's text as it comes; it is remembered once it is complete."""
        return AnswerStream(self._transport, self._reader(question, options))


class AsyncChat(_Conversation):
    """As `Chat`, for asyncio; get it from `AsyncImageSession.chat`."""

    def __init__(self, image: Image, transport: AsyncTransport, options: AskOptions) -> None:
        super().__init__(image, options)
        self._transport = transport

    async def ask(self, question: str, **options: Unpack[AskOptions]) -> Answer:
        """As `Chat.ask`."""
        answer = await self._transport.run(self._image.ask(question, self._merged(options), self.turns))
        self._answered(question, answer)
        return answer

    def stream(self, question: str, **options: Unpack[AskOptions]) -> AsyncAnswerStream:
        """As `Chat.stream`."""
        return AsyncAnswerStream(self._transport, self._reader(question, options))
