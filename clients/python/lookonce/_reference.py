"""Name images and videos in requests: by their pixels once, then by their contexts' ids."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Generic, NamedTuple, Protocol, TypeVar

from ._exceptions import APIStatusError, ImageSourceError
from ._requests import Request
from ._server import Flow, Server
from ._types import ImageUsage

CONTEXT_SCHEME = "lookonce:"
_SCHEMES = (CONTEXT_SCHEME, "data:", "http://", "https://")
_VIDEO_NAMES = (".mp4", ".m4v", ".mov", ".webm", ".mkv")
_CONTEXT_ID = re.compile(r"[0-9a-f]{64}")
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
)
_PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
_FRAMES = "data:video/jpeg;base64,"  # begins a list of pictures, as vLLM takes it
_PIXELS_HELP = frozenset({"context_not_found", "context_lost", "store_unavailable"})
T = TypeVar("T")


class Picture(Protocol):
    """An image in memory that can be saved as a PNG file, such as Pillow's."""

    def save(self, fp: IO[bytes], /, format: str) -> Any:  # noqa: A002 - Pillow's own word
        """Write the image to a file."""


ImageSource = str | os.PathLike[str] | bytes | Picture
"""A path, the bytes of a file, a picture of Pillow's, a `data:` or `http(s):` URL, or `lookonce:<context id>`."""

VideoSource = str | os.PathLike[str] | bytes | Sequence[ImageSource]
"""A path, the bytes of a file, a list of frames, a `data:` or `http(s):` URL, or `lookonce:<context id>`."""


@dataclass
class ImageReference:
    """Name one image or video by its pixels, its context, or both; threads may share it.

    Attributes:
        pixels: a URL of the pixels (`data:` or `http(s):`); None for an image known by its context alone.
        context_id: 64 hex digits, once known; always known if the pixels are not.
        sampling: of a video, the fields `fps` and `max_frames` of its requests; None of an image.
        was_stored: whether the server has certainly had the context.
    """

    pixels: str | None = None
    context_id: str | None = None
    sampling: Mapping[str, float] | None = None
    was_stored: bool = field(default=False, compare=False)

    def set_context(self, context_id: str | None) -> None:
        """Remember the context that an answer named, if it named one."""
        self.context_id = context_id or self.context_id

    def drop_context(self, context_id: str) -> None:
        """Forget a context that the server no longer has; a newer one stays."""
        if self.context_id == context_id:
            self.context_id = None

    def is_same(self, other: ImageReference) -> bool:
        """Whether both are certainly the same image."""
        return (
            self is other
            or (self.pixels is not None and self.pixels == other.pixels and self.sampling == other.sampling)
            or (self.context_id is not None and self.context_id == other.context_id)
        )

    def part(self, url: str) -> dict[str, Any]:
        """Return the image as a part of a message."""
        if self.sampling is None:
            return {"type": "image_url", "image_url": {"url": url}}
        return {"type": "video_url", "video_url": {"url": url}} | self._sampling_of(url)

    def fields(self, url: str) -> dict[str, Any]:
        """Return the image as fields of a request for its context."""
        return {"image_url": url} if self.sampling is None else {"video_url": url} | self._sampling_of(url)

    @property
    def pixel_bytes(self) -> int:
        """The bytes of pixels in a request; 0 if they are a link or unknown."""
        return len(self.pixels) if self.pixels and self.pixels.startswith("data:") else 0

    def _sampling_of(self, url: str) -> dict[str, Any]:
        """Return which frames to take: of a context they are taken already."""
        return {} if url.startswith(CONTEXT_SCHEME) else dict(self.sampling or {})


class SentImages:
    """Hold the images of one request, each with the URL that names it there.

    Args:
        references: the images in the request's order; the same image may come again.
        by_pixels: those that are named by their pixels though their contexts are known.

    Attributes:
        urls: the URL of each image.
        by_id: the images that are named by their contexts, by id.
    """

    def __init__(self, references: Sequence[ImageReference], by_pixels: Sequence[ImageReference] = ()) -> None:
        self._groups: list[list[ImageReference]] = []  # of the same image each
        places: list[int] = []
        for reference in references:
            same = next((i for i, group in enumerate(self._groups) if any(map(reference.is_same, group))), None)
            if same is None:
                same = len(self._groups)
                self._groups.append([])
            self._groups[same].append(reference)
            places.append(same)
        named = [max(group, key=_knowledge) for group in self._groups]
        self._urls = [_url(one, needs_pixels=any(map(one.is_same, by_pixels))) for one in named]
        pairs = zip(self._urls, named, strict=True)
        self.urls = [self._urls[place] for place in places]
        self.by_id = {url.removeprefix(CONTEXT_SCHEME): one for url, one in pairs if url.startswith(CONTEXT_SCHEME)}

    @property
    def bytes_not_sent(self) -> int:
        """The bytes of pixels that contexts' ids replaced."""
        return sum(reference.pixel_bytes for reference in self.by_id.values())

    def set_contexts(self, usages: Sequence[ImageUsage]) -> None:
        """Remember the contexts that an answer named.

        An answer has the distinct images in the request's order. If it has fewer than are known to be distinct here,
        nobody can tell which new context is which image's, and none is remembered.
        """
        stored = {usage.context_id for usage in usages if usage.cache == "hit"}
        new = [usage.context_id for usage in usages if usage.context_id not in self.by_id]
        unknown = [i for i, url in enumerate(self._urls) if not url.startswith(CONTEXT_SCHEME)]
        contexts = dict(zip(unknown, new, strict=True)) if len(unknown) == len(new) else {}
        for i, group in enumerate(self._groups):
            for reference in group:
                reference.set_context(contexts.get(i))
                reference.was_stored |= reference.context_id in stored


class Reply(NamedTuple, Generic[T]):
    """A parsed reply, and the images of its request."""

    result: T
    images: SentImages


def send_images(
    server: Server,
    references: Sequence[ImageReference],
    request_of: Callable[[Sequence[str]], Request[T]],
    *,
    needs_pixels: bool = False,
) -> Flow[Reply[T]]:
    """Send a request that names images by their contexts, or by their pixels before.

    If the server does not have a context any more, or cannot reach it, the pixels are sent in its place: those of the
    image that the error names, and in a second attempt those of all.

    Args:
        server: the server to ask.
        references: the images of the request; the same one may come again.
        request_of: builds the request from the images' URLs.
        needs_pixels: send the pixels of all images that have them.
    """
    by_pixels: list[ImageReference] = [*references] if needs_pixels else []
    while True:
        sent = SentImages(references, by_pixels)
        replaceable = [reference for reference in sent.by_id.values() if reference.pixels is not None]
        helped = _PIXELS_HELP if replaceable else frozenset[str]()
        try:
            return Reply((yield from server.send(request_of(sent.urls), not_retried=helped)), sent)
        except APIStatusError as error:
            named = [reference for context_id, reference in sent.by_id.items() if context_id in error.message]
            if error.code not in helped or any(reference.pixels is None for reference in named):
                raise
            by_pixels += named if named and not by_pixels else replaceable


def read_image(source: ImageSource) -> ImageReference:
    """Read an image, or take its URL or id; raises ImageSourceError."""
    if isinstance(source, bytes):
        return ImageReference(pixels=data_url(source))
    if isinstance(source, str):
        if source.startswith(CONTEXT_SCHEME):
            return ImageReference(context_id=parse_context_id(source))
        if source.startswith(_SCHEMES):
            return ImageReference(pixels=source)
    if isinstance(source, str | os.PathLike):
        return ImageReference(pixels=data_url(_read_file(Path(source))))
    return ImageReference(pixels=data_url(_encode(source)))


def read_video(source: VideoSource, *, fps: float | None, max_frames: int | None) -> ImageReference:
    """Read a video, or join its frames, or take its URL or id; raises ImageSourceError."""
    sampling = {name: value for name, value in (("fps", fps), ("max_frames", max_frames)) if value is not None}
    if isinstance(source, str | os.PathLike | bytes):
        return replace(read_image(source), sampling=sampling)
    frames = [read_image(frame).pixels for frame in source]
    if not frames:
        raise ImageSourceError("the video is empty: 0 frames")
    if not all(frame and frame.startswith("data:") for frame in frames):
        raise ImageSourceError("a video's frame must be given by its pixels, not by a URL or an id")
    return ImageReference(_FRAMES + ",".join(str(frame).partition(",")[2] for frame in frames), sampling=sampling)


def load(source: str) -> str | bytes:
    """Read a file, or return a URL or an id as it is; raises ImageSourceError."""
    return source if source.startswith(_SCHEMES) else _read_file(Path(source))


def is_video(source: str | bytes) -> bool:
    """Whether a file's content is of a video, or a URL's end.

    Animations are videos. A GIF's frames are not counted: it is one if it says how often it repeats.
    """
    if isinstance(source, str):
        return source.startswith("data:video/") or source.partition("?")[0].lower().endswith(_VIDEO_NAMES)
    is_moving_webp = source[:4] == b"RIFF" and source[8:16] == b"WEBPVP8X" and source[20:21] and source[20] & 2
    is_moving_gif = source[:4] == b"GIF8" and b"NETSCAPE2.0" in source[:1024]
    return bool(is_moving_webp or is_moving_gif or _media_type(source).startswith("video/"))


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


def _url(reference: ImageReference, *, needs_pixels: bool) -> str:
    """Return the URL that names an image in a request."""
    context_id = reference.context_id
    if reference.pixels is not None and (context_id is None or needs_pixels):
        return reference.pixels
    return f"{CONTEXT_SCHEME}{context_id}"


def _knowledge(reference: ImageReference) -> tuple[bool, bool]:
    """Rank references of the same image by how it can be named."""
    return reference.context_id is not None, reference.pixels is not None


def _media_type(image: bytes) -> str:
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    if image[4:8] == b"ftyp" and image[8:12] not in _PICTURE_BRANDS:
        return "video/mp4"
    return next((name for magic, name in _MAGIC if image.startswith(magic)), "application/octet-stream")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageSourceError(f"cannot read the image {str(path)!r}: {error.strerror}") from error


def _encode(picture: Picture) -> bytes:
    """Encode a picture without loss: the same pixels give the same bytes."""
    file = io.BytesIO()
    try:
        picture.save(file, format="PNG")
    except AttributeError as error:
        raise ImageSourceError(
            f"not an image: {type(picture).__name__}; a path, bytes, a URL or a picture of Pillow's is expected"
        ) from error
    except (OSError, ValueError) as error:
        raise ImageSourceError(f"cannot write the picture as PNG: {error}") from error
    return file.getvalue()
