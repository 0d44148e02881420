"""Images and videos of requests as `data:` URLs, or as `lookonce:` with an id."""

import asyncio
import base64
import re
import struct
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from lookonce_cache import digest
from lookonce_server.engines.visuals import Visual
from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import FrameSampling, Noun, join_pictures

SCHEME = "lookonce:"
_ID = re.compile(r"[0-9a-f]{64}")
_FRAMES = "data:video/jpeg;base64"  # begins a list of pictures, as vLLM takes them
_KEPT_MARK = b"lookonce video\0\0"  # begins a kept video, and no image
_KEPT_VIDEO = struct.Struct(f">{len(_KEPT_MARK)}sdQ")  # fps and max_frames


class Media(NamedTuple):
    """A kind of input: what it is called, and the most bytes of one."""

    noun: Noun
    max_bytes: int


@dataclass(slots=True)
class ImageBytes:
    """An image or a video as the client sent it, or as it was fetched.

    Attributes:
        data: the encoded image or video.
        param: the request's field that it came in.
        sampling: which frames are chosen of a video; None of an image.
        decoding: decodes it for all passes of the request, once one of them wants it; see `Images.decode`.
        waiting: the passes that wait for it.
    """

    data: bytes
    param: str
    sampling: FrameSampling | None = None
    decoding: asyncio.Task[Visual] | None = field(default=None, repr=False, compare=False)
    waiting: int = field(default=0, repr=False, compare=False)

    @property
    def content(self) -> bytes:
        """The bytes that identify what the model sees: of a video, with how its frames are chosen.

        An image of these bytes there is none, so no image has a video's identity.
        """
        if self.sampling is None:
            return self.data
        fps, max_frames = float(self.sampling.fps), self.sampling.max_frames
        return f"video, {fps!r} fps, at most {max_frames}: {digest(self.data)}".encode()

    def encode(self) -> bytes:
        """Encode it to be kept; see `decode`."""
        if self.sampling is None:
            return self.data
        return _KEPT_VIDEO.pack(_KEPT_MARK, self.sampling.fps, self.sampling.max_frames) + self.data

    @classmethod
    def decode(cls, kept: bytes, param: str) -> Self:
        """Decode what `encode` made."""
        if not kept.startswith(_KEPT_MARK):
            return cls(kept, param)
        _, fps, max_frames = _KEPT_VIDEO.unpack_from(kept)
        return cls(kept[_KEPT_VIDEO.size :], param, FrameSampling(fps, max_frames))


@dataclass(frozen=True, slots=True)
class ContextReference:
    """An image or a video named by its context's id, without pixels."""

    context_id: str


ImageSource = ImageBytes | ContextReference


def parse_reference(url: str, param: str) -> ContextReference:
    """Parse a `lookonce:` URL.

    Raises:
        InvalidImageError: what follows is no context id.
    """
    context_id = url.removeprefix(SCHEME)
    if not _ID.fullmatch(context_id):
        raise InvalidImageError(f"{context_id[:80]!r} is no context id; one has 64 hex digits.", param=param)
    return ContextReference(context_id)


def read_data_url(url: str, media: Media, param: str) -> bytes:
    """Read the bytes of a base64 `data:` URL of any media type.

    A video may be a list of pictures: `data:video/jpeg;base64,<picture>,<picture>`.

    Args:
        url: as the client sent it.
        media: what is accepted.
        param: the request's field that it came in.

    Raises:
        InvalidImageError: it is another kind of URL, its base64 is damaged, or it is too large.
    """
    header, comma, payload = url.partition(",")
    noun = media.noun
    if not is_data_url(header):
        raise InvalidImageError(
            f"{abbreviate(url)} cannot be fetched: this server does not load remote {noun}s. Accepted:"
            f" {accepted(noun)}.",
            param=param,
        )
    if not comma or not header.lower().endswith(";base64"):
        raise InvalidImageError(f"{abbreviate(url)} is not a base64 data: URL.", param=param)
    is_list = noun == "video" and header.lower() == _FRAMES
    try:
        pieces = [_decode_base64(piece) for piece in (payload.split(",") if is_list else [payload])]
    except ValueError as error:  # binascii.Error, and the error for text beyond ASCII
        raise InvalidImageError(f"The {noun}'s base64 is damaged: {error}.", param=param) from None
    data = join_pictures(pieces) if is_list else pieces[0]
    check_size(data, media, param)
    return data


def _decode_base64(text: str) -> bytes:
    """Decode base64 in either alphabet, with its padding or without, and with line breaks.

    Raises:
        ValueError: it is none.
    """
    compact = "".join(text.split())
    if "=" not in compact:
        compact += "=" * (-len(compact) % 4)
    is_standard = "+" in compact or "/" in compact
    return base64.b64decode(compact, altchars=None if is_standard else b"-_", validate=True)


def accepted(noun: Noun) -> str:
    """Name the URLs that are always accepted."""
    example = "image/png" if noun == "image" else "video/mp4"
    return f"a base64 data: URL such as 'data:{example};base64,...', or 'lookonce:<context id>'"


def check_size(data: bytes, media: Media, param: str) -> None:
    """Raise InvalidImageError for empty input, and for too many bytes."""
    if not data:
        raise InvalidImageError(f"The {media.noun} is empty.", param=param)
    if len(data) > media.max_bytes:
        raise InvalidImageError(f"The {media.noun} is larger than the limit of {media.max_bytes} bytes.", param=param)


def is_data_url(url: str) -> bool:
    """Return whether a URL claims to be a `data:` URL."""
    return url[:5].lower() == "data:"


def abbreviate(url: str) -> str:
    """Quote a URL for an error message, a long one in part."""
    return repr(url if len(url) <= 80 else url[:77] + "...")
