"""Decode any bytes: to a picture within the limits, or to one clear error."""

import io
import warnings

from PIL import Image, UnidentifiedImageError

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode.formats import FORMATS, format_of
from lookonce_server.images.decode.limits import ImageLimits
from lookonce_server.images.decode.picture import to_rgb

_MAX_REASON = 200  # characters of a decoder's own message


def decode_image(data: bytes, limits: ImageLimits, param: str) -> Image.Image:
    """Decode an image to RGB, as a person would see it: see `to_rgb`.

    Only the decoder of the one format that the first bytes name is used. Warnings are silenced for the whole process
    meanwhile, so only one thread at a time may call this.

    Args:
        data: the encoded image.
        limits: the largest image accepted.
        param: the request's field that it came in.

    Raises:
        InvalidImageError: not an image of FORMATS, damaged, or beyond the limits.
    """
    name = format_of(data)
    if name is None:
        raise InvalidImageError(f"The bytes are no image of a known format ({', '.join(FORMATS)}).", param=param)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files
            with _open(data, name) as image:
                _check(image.size, limits)
                return to_rgb(image)
    except InvalidImageError as error:
        raise InvalidImageError(str(error), param=param) from None
    except MemoryError:
        raise InvalidImageError("The image needs too much memory to decode.", param=param) from None
    except UnidentifiedImageError:  # its text is only an address in memory
        raise InvalidImageError(f"The image is damaged: it begins as {name}, and is none.", param=param) from None
    except Exception as error:  # on damaged files decoders raise almost anything
        reason = str(error)[:_MAX_REASON] or type(error).__name__
        raise InvalidImageError(f"The image is damaged: {reason}.", param=param) from None


def _open(data: bytes, name: str) -> Image.Image:
    if name == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)
    return Image.open(io.BytesIO(data), formats=(name,))


def _check(size: tuple[int, int], limits: ImageLimits) -> None:
    actual = f"The image has {size[0]} x {size[1]} pixels"
    if size[0] * size[1] > limits.max_pixels:
        raise InvalidImageError(f"{actual}; the limit is {limits.max_pixels} in all.")
    if max(size) > limits.max_side:
        raise InvalidImageError(f"{actual}; the limit is {limits.max_side} a side.")
    if max(size) > limits.max_aspect * min(size):
        raise InvalidImageError(f"{actual}; the longer side may be {limits.max_aspect} times the shorter one at most.")
