"""Images of requests as `data:` URLs, or as `lookonce:` with a context id."""

import asyncio
import base64
import re
from dataclasses import dataclass, field

from PIL import Image

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import ImageLimits

SCHEME = "lookonce:"
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class ImageBytes:
    """An image as the client sent it, or as it was fetched.

    Attributes:
        data: the encoded image.
        param: the request's field that it came in.
        decoding: decodes it for all passes of the request, once one of them wants it; see `Images.decode`.
        waiting: the passes that wait for it.
    """

    data: bytes
    param: str
    decoding: asyncio.Task[Image.Image] | None = field(default=None, repr=False, compare=False)
    waiting: int = field(default=0, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ContextReference:
    """An image named by its context's id, without pixels."""

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


def read_data_url(url: str, limits: ImageLimits, param: str) -> bytes:
    """Read the bytes of a base64 `data:` URL of any media type.

    Args:
        url: as the client sent it.
        limits: the largest image accepted.
        param: the request's field that it came in.

    Raises:
        InvalidImageError: it is another kind of URL, its base64 is damaged, or the image is too large.
    """
    header, comma, payload = url.partition(",")
    if not is_data_url(header):
        raise InvalidImageError(
            f"{abbreviate(url)} cannot be fetched: this server does not load remote images. Accepted: a base64 data:"
            " URL such as 'data:image/png;base64,...', or 'lookonce:<context id>'.",
            param=param,
        )
    if not comma or not header.lower().endswith(";base64"):
        raise InvalidImageError(f"{abbreviate(url)} is not a base64 data: URL.", param=param)
    try:
        data = base64.b64decode("".join(payload.split()), validate=True)
    except ValueError as error:  # binascii.Error, and the error for text beyond ASCII
        raise InvalidImageError(f"The image's base64 is damaged: {error}.", param=param) from None
    check_size(data, limits, param)
    return data


def check_size(data: bytes, limits: ImageLimits, param: str) -> None:
    """Raise InvalidImageError for an empty image, and for one with too many bytes."""
    if not data:
        raise InvalidImageError("The image is empty.", param=param)
    if len(data) > limits.max_bytes:
        raise InvalidImageError(f"The image is larger than the limit of {limits.max_bytes} bytes.", param=param)


def is_data_url(url: str) -> bool:
    """Return whether a URL claims to be a `data:` URL."""
    return url[:5].lower() == "data:"


def abbreviate(url: str) -> str:
    """Quote a URL for an error message, a long one in part."""
    return repr(url if len(url) <= 80 else url[:77] + "...")
