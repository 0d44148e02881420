"""From what a request calls an image to its bytes, and from its bytes to pixels, within limits."""

import asyncio
import base64
import io
import re
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from lookonce_server.errors import InvalidImageError

_SCHEME = "lookonce:"
_ID = re.compile(r"[0-9a-f]{64}")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest image accepted.

    Attributes:
        max_bytes: encoded size, in bytes.
        max_pixels: width times height.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 40_000_000


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """An image as the client sent it; `param` is the request's field it came in."""

    data: bytes
    param: str


@dataclass(frozen=True, slots=True)
class ContextReference:
    """An image named by its context's id, no pixels."""

    context_id: str


ImageSource = ImageBytes | ContextReference


class Images:
    """Reads and decodes images away from the event loop.

    Args:
        limits: the largest image accepted.
    """

    def __init__(self, limits: ImageLimits) -> None:
        self.limits = limits

    async def read(self, url: str, param: str) -> ImageSource:
        """The image, or the context, that a URL stands for.

        Args:
            url: a base64 `data:` URL, or `lookonce:` with a context id.
            param: the request's field it came in.

        Raises:
            InvalidImageError: it is neither, or cannot be read.
        """
        if url.startswith(_SCHEME):
            return _reference(url.removeprefix(_SCHEME), param)
        return ImageBytes(await asyncio.to_thread(read_data_url, url, self.limits, param), param)

    async def decode(self, image: ImageBytes) -> Image.Image:
        """See `decode_image`."""
        return await asyncio.to_thread(decode_image, image.data, self.limits, image.param)


def _reference(context_id: str, param: str) -> ContextReference:
    if not _ID.fullmatch(context_id):
        raise InvalidImageError(f"{context_id[:80]!r} is no context id; one has 64 hex digits.", param=param)
    return ContextReference(context_id)


def read_data_url(url: str, limits: ImageLimits, param: str) -> bytes:
    """The bytes of a base64 `data:` URL.

    Raises:
        InvalidImageError: another kind of URL, bad base64, or too large.
    """
    header, comma, payload = url.partition(",")
    if not header.lower().startswith("data:"):
        raise InvalidImageError(
            f"{_shown(url)} cannot be fetched: this server does not load remote images. Accepted: a base64 data: URL"
            " such as 'data:image/png;base64,...', or 'lookonce:<context id>'.",
            param=param,
        )
    if not comma or not header.lower().endswith(";base64"):
        raise InvalidImageError(f"{_shown(url)} is not a base64 data: URL.", param=param)
    try:
        data = base64.b64decode("".join(payload.split()), validate=True)
    except ValueError as error:  # binascii.Error, and what is said to text beyond ASCII
        raise InvalidImageError(f"The image's base64 is damaged: {error}.", param=param) from None
    if not data:
        raise InvalidImageError("The image is empty.", param=param)
    if len(data) > limits.max_bytes:
        raise InvalidImageError(f"The image is larger than the limit of {limits.max_bytes} bytes.", param=param)
    return data


def decode_image(data: bytes, limits: ImageLimits, param: str) -> Image.Image:
    """The picture as RGB, upright (EXIF orientation applied), an animation's first frame.

    Raises:
        InvalidImageError: not an image of FORMATS, damaged, or with too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is the one that counts
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > limits.max_pixels:
            raise InvalidImageError(
                f"The image has {width} x {height} pixels; the limit is {limits.max_pixels} in all.", param=param
            )
        image.load()
        return _upright(image).convert("RGB")
    except UnidentifiedImageError:
        raise InvalidImageError(
            f"The bytes are no image of a known format ({', '.join(FORMATS)}).", param=param
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        # What Pillow's decoders raise on damaged files.
        raise InvalidImageError(f"The image is damaged: {error}.", param=param) from None


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF data say; as it is where they are damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow reads and rewrites all of the EXIF data, and raises almost anything on odd ones
        return image


def _shown(url: str) -> str:
    return repr(url if len(url) <= 80 else url[:77] + "...")
