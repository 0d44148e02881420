"""From what a caller calls an image to the URL that a request carries, and the memory of one image's context."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ._exceptions import ImageSourceError

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

ImageSource = str | os.PathLike[str] | bytes
"""A path, the bytes of an image file, a `data:` or `http(s):` URL, or `lookonce:<context id>`."""


@dataclass
class ImageReference:
    """One image, by its pixels, by its context, or by both; several threads may ask about it at once.

    Attributes:
        pixels: a URL that gives the pixels (`data:` or `http(s):`); None for an image known by its context alone.
        context_id: 64 hex digits, once known; always known where the pixels are not.
    """

    pixels: str | None = None
    context_id: str | None = None

    def learn(self, context_id: str | None) -> None:
        """Remember the context that an answer named."""
        self.context_id = context_id or self.context_id

    def forget(self, context_id: str) -> None:
        """Drop a context that the server no longer has; another one, learnt meanwhile, stays."""
        if self.context_id == context_id:
            self.context_id = None

    @property
    def size(self) -> int:
        """Bytes that a request carries for the pixels; 0 where they are a link, or unknown."""
        return len(self.pixels) if self.pixels and self.pixels.startswith("data:") else 0


def reference(source: ImageSource) -> ImageReference:
    """Read an image or take its name; raises ImageSourceError for what is neither."""
    if isinstance(source, bytes):
        return ImageReference(pixels=data_url(source))
    if isinstance(source, str):
        if source.startswith(CONTEXT_SCHEME):
            return ImageReference(context_id=context_id(source))
        if source.startswith(("data:", "http://", "https://")):
            return ImageReference(pixels=source)
    return ImageReference(pixels=data_url(_read(Path(source))))


def context_id(name: str) -> str:
    """Check a context id, given with or without `lookonce:` before it; it becomes part of a URL."""
    bare = name.removeprefix(CONTEXT_SCHEME)
    if not _CONTEXT_ID.fullmatch(bare):
        raise ImageSourceError(f"not a context id: {name!r}; 64 hex digits are expected")
    return bare


def data_url(image: bytes) -> str:
    """Wrap an image file's bytes; a format this does not know is left for the server to judge."""
    if not image:
        raise ImageSourceError("the image is empty: 0 bytes")
    return f"data:{_media_type(image)};base64,{base64.b64encode(image).decode('ascii')}"


def _media_type(image: bytes) -> str:
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    return next((name for magic, name in _MAGIC if image.startswith(magic)), "application/octet-stream")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageSourceError(f"cannot read the image {str(path)!r}: {error.strerror}") from error
