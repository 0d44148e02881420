"""Make, read and delete the context of one image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from . import _requests
from ._exceptions import ContextNotFoundError
from ._reference import CONTEXT_SCHEME, ImageReference, send_images
from ._requests import Request
from ._server import Flow, Server
from ._types import Context, ContextOptions, ContextTokens, ImageOptions

T = TypeVar("T")


class Image:
    """Hold what is known of an image's context, and the flows that change it.

    Several flows may be under way at once.

    Args:
        server: the server to ask.
        reference: the image.
        options: the options of every request.

    Attributes:
        server, reference, options: as given.
        context: the context as the server last described it.
    """

    def __init__(self, server: Server, reference: ImageReference, options: ImageOptions) -> None:
        self.server = server
        self.reference = reference
        self.options = options
        self.context: Context | None = None

    def prepare(self) -> Flow[Context]:
        """Have the server make the context, unless it has it."""
        return self.set_context((yield from self._send(self._context_request(_requests.create_context))))

    def describe(self) -> Flow[Any]:
        """Return the response to read events from, or the context if its id is known."""
        return (yield from self._send(self._context_request(_requests.stream_context)))

    def set_context(self, context: Context) -> Context:
        """Remember the context that the server described."""
        self.context = context
        self.reference.set_context(context.id)
        self.reference.was_stored = True
        return context

    def tokens(self, retention: float | None) -> Flow[ContextTokens]:
        """Return the tokens that the context keeps."""
        return (yield from self._send_about_context(lambda id_: _requests.get_tokens(id_, retention)))

    def heatmap(self, retention: float | None, *, over_image: bool) -> Flow[bytes]:
        """Return the heat map, over the image if that is asked for and it is known."""
        is_video = self.reference.sampling is not None
        pixels = self.reference.pixels if over_image and not is_video else None
        return (yield from self._send_about_context(lambda id_: _requests.get_heatmap(id_, retention, pixels)))

    def forget(self) -> Flow[bool]:
        """Delete the context, after waiting for one that is still being made."""
        context_id = self.reference.context_id
        if context_id is None:
            return False
        is_deleted = yield from self._delete(context_id)
        if not is_deleted and not self.reference.was_stored and self.reference.pixels is not None:
            self.reference.drop_context(context_id)
            context_id = (yield from self.prepare()).id
            is_deleted = yield from self._delete(context_id)
        if self.reference.pixels is not None:
            self.reference.drop_context(context_id)
        self.reference.was_stored, self.context = False, None
        return is_deleted

    def _send(self, request_of: Callable[[str], Request[T]]) -> Flow[T]:
        """Send a request that names the image by its context, or by its pixels before."""
        reply = yield from send_images(self.server, [self.reference], lambda urls: request_of(urls[0]))
        return reply.result

    def _context_request(
        self, create: Callable[[Mapping[str, Any], ContextOptions], Request[Any]]
    ) -> Callable[[str], Request[Any]]:
        accepted = ContextOptions.__annotations__
        options = cast(ContextOptions, {name: option for name, option in self.options.items() if name in accepted})

        def request_of(url: str) -> Request[Any]:
            if url.startswith(CONTEXT_SCHEME):
                return _requests.get_context(url.removeprefix(CONTEXT_SCHEME))
            return create(self.reference.fields(url), options)

        return request_of

    def _send_about_context(self, request_of: Callable[[str], Request[T]]) -> Flow[T]:
        """Send a request that needs a stored context; one that is missing is made."""
        context_id = self.reference.context_id
        if context_id is not None:
            try:
                return (yield from self.server.send(request_of(context_id)))
            except ContextNotFoundError:
                if self.reference.pixels is None:
                    raise
                self.reference.drop_context(context_id)
        context = yield from self.prepare()
        return (yield from self.server.send(request_of(context.id)))

    def _delete(self, context_id: str) -> Flow[bool]:
        try:
            yield from self.server.send(_requests.delete_context(context_id))
        except ContextNotFoundError:
            return False
        return True
