"""Ask about the images of a session: by their pixels once, then by their contexts' ids."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from . import _requests
from ._exceptions import LookonceError
from ._image import Image
from ._reference import ImageReference, Reply, SentImages, send_images
from ._requests import Request
from ._server import Flow, SavedCounter, Server
from ._types import Answer, AskOptions, Context, ImageOptions, Turn

T = TypeVar("T")
Asked = Sequence[tuple[Sequence[Image], Turn]]
"""The turns of a conversation, each with its own images; the last one is the question, with no answer yet."""
_SHAPING = ("retention", "describe_prompt")  # another value makes another context of the same image


class Images:
    """Hold the images of a session, and the flows that ask about them.

    Several flows may be under way at once.

    Args:
        server: the server to ask.
        images: the images of every question.
        options: the options of every request.
        forget_on_exit: whether the end of the session deletes the contexts.

    Attributes:
        images: as given.
        saved: counts the savings of the session's questions.
    """

    def __init__(
        self, server: Server, images: Sequence[Image], options: ImageOptions, *, forget_on_exit: bool = False
    ) -> None:
        self.images = tuple(images)
        self.saved = SavedCounter(server.saved)
        self._server = server
        self._options = options
        self._forget_on_exit = forget_on_exit

    def alone(self, reference: ImageReference) -> Images:
        """Return what a session needs of one image that can be asked about with these."""
        return Images(self._server, [Image(self._server, reference, self._options)], self._options)

    def joined(self, images: Sequence[Image]) -> Images:
        """Return what a session of images needs that has the options of this one."""
        return Images(self._server, images, self._options, forget_on_exit=self._forget_on_exit)

    def check(self, image: Image) -> None:
        """Raise ValueError for an image that cannot be asked about with these."""
        if image.server is not self._server:
            raise ValueError("the image is another client's: give its source, or its context's id")
        for name in _SHAPING:
            option, other = self._options.get(name), image.options.get(name)
            if option != other:
                raise ValueError(f"{name} is {option!r} here and {other!r} for one of the images; give both the same")

    def ask(self, turns: Asked, options: AskOptions) -> Flow[Answer]:
        """Ask a question, and remember the contexts that the answer names."""
        started = time.perf_counter()
        reply = yield from self._ask(_requests.ask, turns, options)
        answer = replace(reply.result, seconds=time.perf_counter() - started)
        self.add_answer(answer, reply.images)
        return answer

    def stream(self, turns: Asked, options: AskOptions) -> Flow[Reply[Any]]:
        """Ask a question, and return the response to read events from."""
        return (yield from self._ask(_requests.stream_answer, turns, options))

    def add_answer(self, answer: Answer, images: SentImages) -> None:
        """Count an answer, and remember the contexts that it names."""
        images.set_contexts(answer.images)
        self.saved.add(answer, images.bytes_not_sent)

    def prepare(self) -> Flow[list[Context]]:
        """Have the server make the contexts that it does not have."""
        contexts = []
        for image in self.images:
            contexts.append((yield from image.prepare()))
        return contexts

    def forget(self) -> Flow[int]:
        """Delete the contexts, and return how many there were."""
        count = 0
        for image in self.images:
            count += yield from image.forget()
        return count

    def close(self, *, has_failed: bool) -> Flow[None]:
        """End the session; after a failure, an error of the clean-up is dropped."""
        if not self._forget_on_exit:
            return
        try:
            yield from self.forget()
        except LookonceError:
            if not has_failed:
                raise

    def _ask(
        self, request_of: Callable[[Mapping[str, Any]], Request[T]], turns: Asked, options: AskOptions
    ) -> Flow[Reply[T]]:
        _requests.check_options(options, AskOptions)
        merged = cast(AskOptions, {**self._options, **options})
        model = yield from self._server.model()
        shown = [[*(self.images if place == 0 else ()), *images] for place, (images, _) in enumerate(turns)]
        references = [image.reference for images in shown for image in images]

        def build(urls: Sequence[str]) -> Request[T]:
            parts = map(ImageReference.part, references, urls)
            with_parts = [([next(parts) for _ in images], turn) for images, (_, turn) in zip(shown, turns, strict=True)]
            return request_of(_requests.chat_body(model, with_parts, merged))

        is_whole = merged.get("mode") == "full_image" or merged.get("cache") == "bypass"
        needs_pixels = is_whole or bool(merged.get("fallback"))
        return (yield from send_images(self._server, references, build, needs_pixels=needs_pixels))
