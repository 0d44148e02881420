"""One image, many questions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar, Unpack

from . import _protocol
from ._exceptions import ContextNotFoundError
from ._images import ImageReference
from ._stream import AnswerStream
from ._transport import Transport
from ._types import Answer, AskOptions, Context

T = TypeVar("T")


class ImageSession:
    """One image to ask about; get it from `Lookonce.image`.

    The pixels go to the server until it names the image's context; from then on only the context's name does.
    Should the server have lost the context, the pixels are sent again, once, and the question is answered all the
    same; a session that began with a context's name has none to send and raises ContextNotFoundError.
    Each question stands alone: no earlier question or answer is sent with it.
    """

    def __init__(self, image: ImageReference, transport: Transport, model: Callable[[], str]) -> None:
        self._image = image
        self._transport = transport
        self._model = model

    @property
    def context_id(self) -> str | None:
        """The image's context, 64 hex digits, once known."""
        return self._image.context_id

    def prepare(self) -> Context:
        """Have the server look at the image now, so that the first answer too comes from the context."""
        reply = self._with_image(lambda url: self._transport.send(_protocol.prepare_context(url)))
        context = _protocol.read_context(reply)
        self._image.learn(context.id)
        return context

    def ask(self, question: str, **options: Unpack[AskOptions]) -> Answer:
        """Ask about the image; the options are those of `AskOptions`."""
        started, model = time.perf_counter(), self._model()
        reply = self._with_image(lambda url: self._transport.send(_protocol.ask(model, url, question, options)))
        answer = _protocol.read_answer(reply, time.perf_counter() - started)
        self._image.learn(answer.context_id)
        return answer

    def stream(self, question: str, **options: Unpack[AskOptions]) -> AnswerStream:
        """Ask about the image and take the answer's text as it comes; the options are those of `AskOptions`."""
        started, model = time.perf_counter(), self._model()
        response = self._with_image(
            lambda url: self._transport.open(_protocol.ask(model, url, question, options, stream=True))
        )
        return AnswerStream(response, started, self._image.learn)

    def _with_image(self, send: Callable[[str], T]) -> T:
        try:
            return send(self._image.url)
        except ContextNotFoundError:
            if not self._image.forget():
                raise
            return send(self._image.url)
