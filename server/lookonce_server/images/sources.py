"""What a request may call an image, apart from a remote URL."""

import base64
import re
from dataclasses import dataclass

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import ImageLimits

SCHEME = "lookonce:"
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """An image as the client sent it, or as it was fetched; `param` is the request's field it came in."""

    data: bytes
    param: str


@dataclass(frozen=True, slots=True)
class ContextReference:
    """An image named by its context's id, no pixels."""

    context_id: str


ImageSource = ImageBytes | ContextReference


def read_reference(url: str, param: str) -> ContextReference:
    """The context that a `lookonce:` URL names.

    Raises:
        InvalidImageError: it names none.
    """
    context_id = url.removeprefix(SCHEME)
    if not _ID.fullmatch(context_id):
        raise InvalidImageError(f"{context_id[:80]!r} is no context id; one has 64 hex digits.", param=param)
    return ContextReference(context_id)


def read_data_url(url: str, limits: ImageLimits, param: str) -> bytes:
    """The bytes of a base64 `data:` URL, whatever media type it claims.

    Raises:
        InvalidImageError: another kind of URL, bad base64, or too large.
    """
    header, comma, payload = url.partition(",")
    if not is_data_url(header):
        raise InvalidImageError(
            f"{shown(url)} cannot be fetched: this server does not load remote images. Accepted: a base64 data: URL"
            " such as 'data:image/png;base64,...', or 'lookonce:<context id>'.",
            param=param,
        )
    if not comma or not header.lower().endswith(";base64"):
        raise InvalidImageError(f"{shown(url)} is not a base64 data: URL.", param=param)
    try:
        data = base64.b64decode("".join(payload.split()), validate=True)
    except ValueError as error:  # binascii.Error, and what is said to text beyond ASCII
        raise InvalidImageError(f"The image's base64 is damaged: {error}.", param=param) from None
    if not data:
        raise InvalidImageError("The image is empty.", param=param)
    if len(data) > limits.max_bytes:
        raise InvalidImageError(f"The image is larger than the limit of {limits.max_bytes} bytes.", param=param)
    return data


def is_data_url(url: str) -> bool:
    """Whether a URL says that it carries its data itself."""
    return url[:5].lower() == "data:"


def shown(url: str) -> str:
    """A URL as an error names it: not all of a long one."""
    return repr(url if len(url) <= 80 else url[:77] + "...")
