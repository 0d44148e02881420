"""Decode any bytes: to a picture within the limits, or to one clear error."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import jpeg
from lookonce_server.images.decode.formats import FORMATS, container_of, format_of
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
        hint = " They are a video's: send it as a video_url." if container_of(data) else ""
        raise InvalidImageError(f"The bytes are no image of a known format ({', '.join(FORMATS)}).{hint}", param=param)
    with clear_errors("image", param, name):
        return _decode_whole(data, name, limits)


@contextmanager
def clear_errors(noun: str, param: str, name: str) -> Iterator[None]:
    """Turn whatever decoders raise in the block into one clear error.

    Warnings are silenced for the whole process meanwhile, so only one thread at a time may enter it.

    Args:
        noun: what is decoded.
        param: the request's field that it came in.
        name: of the format that its first bytes name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files
            yield
    except InvalidImageError as error:
        raise InvalidImageError(str(error), param=param) from None
    except MemoryError:
        raise InvalidImageError(f"The {noun} needs too much memory to decode.", param=param) from None
    except UnidentifiedImageError:  # its text is only an address in memory
        raise InvalidImageError(f"The {noun} is damaged: it begins as {name}, and is none.", param=param) from None
    except Exception as error:  # on damaged files decoders raise almost anything
        reason = (getattr(error, "strerror", None) or str(error))[:_MAX_REASON] or type(error).__name__
        raise InvalidImageError(f"The {noun} is damaged: {reason.rstrip('.')}.", param=param) from None


def _decode_whole(data: bytes, name: str, limits: ImageLimits) -> Image.Image:
    """Decode an image; a JPEG may lack its end marker, and nothing else."""
    endings = jpeg.endings(data) if name == "JPEG" else []
    if endings:
        first, *others = endings
        samples = _samples(first, limits)
        if any(_samples(ended, limits) != samples for ended in others):
            raise InvalidImageError("The image is damaged: it is truncated.")
    return _decode(endings[0] if endings else data, name, limits)


def _samples(data: bytes, limits: ImageLimits) -> bytes:
    """Decode a JPEG to its own samples: as RGB, different ones may be the same colour."""
    with _open(data, "JPEG") as image:
        limits.check_size(image.size)
        image.draft("YCbCr", image.size)
        return image.tobytes()


def _decode(data: bytes, name: str, limits: ImageLimits) -> Image.Image:
    with _open(data, name) as image:
        limits.check_size(image.size)
        return to_rgb(image)


def _open(data: bytes, name: str) -> Image.Image:
    if name == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)
    return Image.open(io.BytesIO(data), formats=(name,))
