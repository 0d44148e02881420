"""Read an image and ask about it by its pixels once, then by its context's id."""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast

from . import _requests
from ._exceptions import APIStatusError, ContextNotFoundError, ImageSourceError, LookonceError
from ._requests import Request
from ._server import Flow, SavedCounter, Server
from ._types import Answer, AskOptions, Context, ContextOptions, ContextTokens, ImageOptions, Turn

CONTEXT_SCHEME = "lookonce:"
_CONTEXT_ID = re.compile(r"[0-9a-f]{64}")
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)
_PIXELS_HELP = frozenset({"context_not_found", "context_lost", "store_unavailable"})
T = TypeVar("T")

ImageSource = str | os.PathLike[str] | bytes
"""A path, the bytes of an image file, a `data:` or `http(s):` URL, or `lookonce:<context id>`."""


@dataclass
class ImageReference:
    """Name one image by its pixels, its context, or both; threads may share it.

    Attributes:
        pixels: a URL of the pixels (`data:` or `http(s):`); None for an image known by its context alone.
        context_id: 64 hex digits, once known; always known if the pixels are not.
    """

    pixels: str | None = None
    context_id: str | None = None

    def set_context(self, context_id: str | None) -> None:
        """Remember the context that an answer named, if it named one."""
        self.context_id = context_id or self.context_id

    def drop_context(self, context_id: str) -> None:
        """Forget a context that the server no longer has; a newer one stays."""
        if self.context_id == context_id:
            self.context_id = None

    @property
    def pixel_bytes(self) -> int:
        """The bytes of pixels in a request; 0 if they are a link or unknown."""
        return len(self.pixels) if self.pixels and self.pixels.startswith("data:") else 0


class Reply(NamedTuple, Generic[T]):
    """A parsed reply, and the bytes of pixels that its request saved."""

    result: T
    bytes_not_sent: int


class Image:
    """Hold the state of an image's session, and the flows that change it.

    Several flows may be under way at once.

    Args:
        server: the server to ask.
        reference: the image.
        options: the options of every request.
        forget_on_exit: whether the end of the session deletes the context.

    Attributes:
        context: the context as the server last described it.
        saved: counts the savings of the image's questions.
    """

    def __init__(
        self, server: Server, reference: ImageReference, options: ImageOptions, *, forget_on_exit: bool
    ) -> None:
        self.reference = reference
        self.context: Context | None = None
        self.saved = SavedCounter(server.saved)
        self._server = server
        self._options = options
        self._forget_on_exit = forget_on_exit
        self._was_stored = False  # the server has certainly had the context

    def ask(self, question: str, options: AskOptions, turns: Sequence[Turn] = ()) -> Flow[Answer]:
        """Ask a question, and remember the context that the answer names."""
        started = time.perf_counter()
        reply = yield from self._ask(_requests.ask, question, options, turns)
        answer = replace(reply.result, seconds=time.perf_counter() - started)
        self.add_answer(answer, reply.bytes_not_sent)
        return answer

    def stream(self, question: str, options: AskOptions, turns: Sequence[Turn]) -> Flow[Reply[Any]]:
        """Ask a question, and return the response to read events from."""
        return (yield from self._ask(_requests.stream_answer, question, options, turns))

    def add_answer(self, answer: Answer, bytes_not_sent: int) -> None:
        """Count an answer, and remember the context that it names."""
        self.reference.set_context(answer.context_id)
        self._was_stored |= answer.cache == "hit"
        self.saved.add(answer, bytes_not_sent)

    def prepare(self) -> Flow[Context]:
        """Have the server make the context, unless it has it."""
        reply = yield from self._send(self._context_request(_requests.create_context))
        return self.set_context(reply.result)

    def describe(self) -> Flow[Any]:
        """Return the response to read events from, or the context if its id is known."""
        return (yield from self._send(self._context_request(_requests.stream_context))).result

    def set_context(self, context: Context) -> Context:
        """Remember the context that the server described."""
        self.context = context
        self.reference.set_context(context.id)
        self._was_stored = True
        return context

    def tokens(self, retention: float | None) -> Flow[ContextTokens]:
        """Return the tokens that the context keeps."""
        return (yield from self._send_about_context(lambda id_: _requests.get_tokens(id_, retention)))

    def heatmap(self, retention: float | None, *, over_image: bool) -> Flow[bytes]:
        """Return the heat map, over the image if that is asked for and it is known."""
        pixels = self.reference.pixels if over_image else None
        return (yield from self._send_about_context(lambda id_: _requests.get_heatmap(id_, retention, pixels)))

    def forget(self) -> Flow[bool]:
        """Delete the context, after waiting for one that is still being made."""
        context_id = self.reference.context_id
        if context_id is None:
            return False
        is_deleted = yield from self._delete(context_id)
        if not is_deleted and not self._was_stored and self.reference.pixels is not None:
            self.reference.drop_context(context_id)
            context_id = (yield from self.prepare()).id
            is_deleted = yield from self._delete(context_id)
        if self.reference.pixels is not None:
            self.reference.drop_context(context_id)
        self._was_stored, self.context = False, None
        return is_deleted

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
        self,
        request_of: Callable[[dict[str, Any]], Request[T]],
        question: str,
        options: AskOptions,
        turns: Sequence[Turn],
    ) -> Flow[Reply[T]]:
        _requests.check_options(options, AskOptions)
        merged = cast(AskOptions, {**self._options, **options})
        model = yield from self._server.model()
        needs_pixels = merged.get("cache") == "bypass" or bool(merged.get("fallback"))
        return (
            yield from self._send(
                lambda url: request_of(_requests.chat_body(model, url, question, merged, turns)),
                needs_pixels=needs_pixels,
            )
        )

    def _send(self, request_of: Callable[[str], Request[T]], *, needs_pixels: bool = False) -> Flow[Reply[T]]:
        """Send a request that names the image by its context, or by its pixels before.

        If the server does not have the context any more, or cannot reach it, the pixels are sent in its place.
        """
        image, context_id = self.reference, self.reference.context_id
        if context_id is None or (needs_pixels and image.pixels is not None):
            assert image.pixels is not None
            return Reply((yield from self._server.send(request_of(image.pixels))), 0)
        helped: Collection[str] = _PIXELS_HELP if image.pixels is not None else ()
        try:
            result = yield from self._server.send(request_of(CONTEXT_SCHEME + context_id), not_retried=helped)
        except APIStatusError as error:
            if image.pixels is None or error.code not in helped:
                raise
            return Reply((yield from self._server.send(request_of(image.pixels))), 0)
        return Reply(result, image.pixel_bytes)

    def _context_request(self, create: Callable[[str, ContextOptions], Request[Any]]) -> Callable[[str], Request[Any]]:
        accepted = ContextOptions.__annotations__
        options = cast(ContextOptions, {name: option for name, option in self._options.items() if name in accepted})

        def request_of(url: str) -> Request[Any]:
            if url.startswith(CONTEXT_SCHEME):
                return _requests.get_context(url.removeprefix(CONTEXT_SCHEME))
            return create(url, options)

        return request_of

    def _send_about_context(self, request_of: Callable[[str], Request[T]]) -> Flow[T]:
        """Send a request that needs a stored context; one that is missing is made."""
        context_id = self.reference.context_id
        if context_id is not None:
            try:
                return (yield from self._server.send(request_of(context_id)))
            except ContextNotFoundError:
                if self.reference.pixels is None:
                    raise
                self.reference.drop_context(context_id)
        context = yield from self.prepare()
        return (yield from self._server.send(request_of(context.id)))

    def _delete(self, context_id: str) -> Flow[bool]:
        try:
            yield from self._server.send(_requests.delete_context(context_id))
        except ContextNotFoundError:
            return False
        return True


def read_image(source: ImageSource) -> ImageReference:
    """Read an image, or take its URL or id; raises ImageSourceError."""
    if isinstance(source, bytes):
        return ImageReference(pixels=data_url(source))
    if isinstance(source, str):
        if source.startswith(CONTEXT_SCHEME):
            return ImageReference(context_id=parse_context_id(source))
        if source.startswith(("data:", "http://", "https://")):
            return ImageReference(pixels=source)
    return ImageReference(pixels=data_url(_read_file(Path(source))))


def parse_context_id(name: str) -> str:
    """Check a context id, which becomes part of a URL, and strip its `lookonce:`."""
    bare = name.removeprefix(CONTEXT_SCHEME)
    if not _CONTEXT_ID.fullmatch(bare):
        raise ImageSourceError(f"not a context id: {name!r}; 64 hex digits are expected")
    return bare


def data_url(image: bytes) -> str:
    """Build a data URL of an image file; the server judges a format unknown here."""
    if not image:
        raise ImageSourceError("the image is empty: 0 bytes")
    return f"data:{_media_type(image)};base64,{base64.b64encode(image).decode('ascii')}"


def _media_type(image: bytes) -> str:
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    return next((name for magic, name in _MAGIC if image.startswith(magic)), "application/octet-stream")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageSourceError(f"cannot read the image {str(path)!r}: {error.strerror}") from error
