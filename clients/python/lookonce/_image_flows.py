"""What is done with one image, as flows: its pixels are sent once, and then its context is named."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, cast

from . import _protocol
from ._exceptions import APIStatusError, ContextNotFoundError, LookonceError
from ._flows import Flow, Server
from ._images import CONTEXT_SCHEME, ImageReference
from ._protocol import Request
from ._saved import Tally
from ._types import Answer, AskOptions, Context, ContextOptions, ContextTokens, ImageOptions, Turn

_PIXELS_HELP = frozenset({"context_not_found", "context_lost", "store_unavailable"})


class Reply(NamedTuple):
    """What the server answered, and how it was told which image is meant."""

    body: Any
    bytes_not_sent: int  # of pixels, because the context's id went in their place


class Image:
    """An image, what is known of it so far, and the flows about it; several may be under way at once.

    Args:
        server: that is asked.
        reference: the image.
        options: that ride on every request.
        forgets: whether leaving its session deletes the context.

    Attributes:
        context: as the server last told of it.
        tally: of what its questions saved.
    """

    def __init__(self, server: Server, reference: ImageReference, options: ImageOptions, *, forgets: bool) -> None:
        self.server = server
        self.reference = reference
        self.context: Context | None = None
        self.tally = Tally(server.tally)
        self._options = options
        self._forgets = forgets
        self._was_there = False  # a context, for certain

    @property
    def making(self) -> ContextOptions:
        """The options of its context."""
        chosen = {name: option for name, option in self._options.items() if name in ContextOptions.__annotations__}
        return cast(ContextOptions, chosen)

    def ask(self, question: str, options: AskOptions, turns: Sequence[Turn] = ()) -> Flow[Answer]:
        """Ask, and remember what the answer tells."""
        started = time.perf_counter()
        reply = yield from self.send_question(question, options, turns)
        answer = _protocol.read_answer(reply.body, time.perf_counter() - started)
        self.answered(answer, reply.bytes_not_sent)
        return answer

    def send_question(
        self, question: str, options: AskOptions, turns: Sequence[Turn], *, stream: bool = False
    ) -> Flow[Reply]:
        """Ask, and hand the reply on."""
        _protocol.check_options(options, AskOptions)
        merged = cast(AskOptions, {**self._options, **options})
        model = yield from self.server.model()
        return (
            yield from self.about(
                lambda url: _protocol.ask(model, url, question, merged, turns, stream=stream),
                by_pixels=merged.get("cache") == "bypass" or bool(merged.get("fallback")),
            )
        )

    def answered(self, answer: Answer, bytes_not_sent: int) -> None:
        """Count an answer, and learn from it which context the image has."""
        self.reference.learn(answer.context_id)
        self._was_there |= answer.cache == "hit"
        self.tally.add(answer, bytes_not_sent)

    def prepare(self) -> Flow[Context]:
        """See that there is a context."""
        reply = yield from self.about(self._context_request())
        return self.told(_protocol.read_context(reply.body))

    def send_describe(self) -> Flow[Reply]:
        """See that there is a context, and hand on the stream of its making; or the context, where its id is known."""
        return (yield from self.about(self._context_request(stream=True)))

    def told(self, context: Context) -> Context:
        """Remember the context as the server told of it."""
        self.context = context
        self.reference.learn(context.id)
        self._was_there = True
        return context

    def tokens(self, retention: float | None) -> Flow[ContextTokens]:
        """What is kept of the image."""
        reply = yield from self._of_context(lambda context_id: _protocol.get_tokens(context_id, retention))
        return _protocol.read_tokens(reply)

    def heatmap(self, retention: float | None, *, over_image: bool) -> Flow[bytes]:
        """What is kept of the image, drawn; over its pixels where that is wanted and they are known."""
        pixels = self.reference.pixels if over_image else None
        reply = yield from self._of_context(lambda context_id: _protocol.get_heatmap(context_id, retention, pixels))
        return cast(bytes, reply)

    def forget(self) -> Flow[bool]:
        """Delete the context; one that is still being made is waited for."""
        context_id = self.reference.context_id
        if context_id is None:
            return False
        found = yield from self._deleted(context_id)
        if not found and not self._was_there and self.reference.pixels is not None:
            self.reference.forget(context_id)
            context_id = (yield from self.prepare()).id
            found = yield from self._deleted(context_id)
        if self.reference.pixels is not None:
            self.reference.forget(context_id)
        self._was_there, self.context = False, None
        return found

    def leave(self, *, failed: bool) -> Flow[None]:
        """End the session; an error that already is on its way out is not replaced by another."""
        if not self._forgets:
            return
        try:
            yield from self.forget()
        except LookonceError:
            if not failed:
                raise

    def about(self, request_of: Callable[[str], Request], *, by_pixels: bool = False) -> Flow[Reply]:
        """Send a request that names the image: by its context where one is known, by its pixels else.

        Should the context not be there any more, or be out of the server's reach, the pixels are sent in its place.
        """
        image, context_id = self.reference, self.reference.context_id
        if context_id is None or (by_pixels and image.pixels is not None):
            assert image.pixels is not None
            return Reply((yield from self.server.send(request_of(image.pixels))), 0)
        helped: Collection[str] = _PIXELS_HELP if image.pixels is not None else ()
        try:
            body = yield from self.server.send(request_of(CONTEXT_SCHEME + context_id), give_up_on=helped)
        except APIStatusError as error:
            if image.pixels is None or error.code not in helped:
                raise
            return Reply((yield from self.server.send(request_of(image.pixels))), 0)
        return Reply(body, image.size)

    def _context_request(self, *, stream: bool = False) -> Callable[[str], Request]:
        def request(url: str) -> Request:
            if url.startswith(CONTEXT_SCHEME):
                return _protocol.get_context(url.removeprefix(CONTEXT_SCHEME))
            return _protocol.create_context(url, self.making, stream=stream)

        return request

    def _of_context(self, request_of: Callable[[str], Request]) -> Flow[Any]:
        """Send a request that wants a context to be there; it is made where it is not."""
        context_id = self.reference.context_id
        if context_id is not None:
            try:
                return (yield from self.server.send(request_of(context_id)))
            except ContextNotFoundError:
                if self.reference.pixels is None:
                    raise
                self.reference.forget(context_id)
        context = yield from self.prepare()
        return (yield from self.server.send(request_of(context.id)))

    def _deleted(self, context_id: str) -> Flow[bool]:
        try:
            yield from self.server.delete_context(context_id)
        except ContextNotFoundError:
            return False
        return True
