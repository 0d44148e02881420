"""Read frames that Pillow decodes: of GIF and WebP, and lists of pictures."""

import io
import struct
from collections.abc import Sequence

from PIL import Image

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode.decoder import decode_image
from lookonce_server.images.decode.frames import Frames, FrameSampling, fit_picture
from lookonce_server.images.decode.limits import VideoLimits
from lookonce_server.images.decode.picture import to_rgb

ANIMATIONS = ("GIF", "WEBP")
LIST_MARK = b"lookonce frames\0"  # begins a list of pictures, which no file does
_LENGTH = struct.Struct(">Q")
_QUICK, _PLAIN = 10, 100  # milliseconds: a frame of so few is shown for the other, as browsers do


def read_animation(data: bytes, name: str, limits: VideoLimits, sampling: FrameSampling) -> Frames:
    """Read the chosen frames of an animation; see `read_container` for arguments.

    Raises:
        InvalidImageError: it is beyond the limits.
        Exception: Pillow's errors, on damaged files.
    """
    times = _times(data, name, limits)
    limits.check_times(times)
    chosen = sampling.choose(times)
    pictures = []
    with Image.open(io.BytesIO(data), formats=(name,)) as image:
        for i in chosen:
            image.seek(i)
            picture = fit_picture(to_rgb(image), limits.max_chosen_pixels // len(chosen))
            pictures.append(picture.copy() if picture is image else picture)  # which becomes the next frame
    return Frames(pictures, [times[i] for i in chosen])


def _times(data: bytes, name: str, limits: VideoLimits) -> list[float]:
    """Return when each frame is shown, in seconds."""
    times, shown = [], 0.0
    with Image.open(io.BytesIO(data), formats=(name,)) as image:
        limits.frame.check_size(image.size, "video")
        for i in range(getattr(image, "n_frames", 1)):
            size = image.size
            image.seek(i)
            if image.size != size:  # Pillow enlarges a GIF by a frame that is larger
                raise InvalidImageError("The video is damaged: its frames have several sizes.")
            if name == "WEBP":
                image.load()  # it tells a frame's time with its pixels only
            times.append(shown)
            duration = image.info.get("duration", 0)
            shown += (duration if duration > _QUICK else _PLAIN) / 1000
            if shown > limits.max_seconds + 1:
                break  # it is too long already
    return times


def join_pictures(pictures: Sequence[bytes]) -> bytes:
    """Join encoded pictures to the bytes of a video."""
    return LIST_MARK + b"".join(_LENGTH.pack(len(picture)) + picture for picture in pictures)


def read_pictures(data: bytes, limits: VideoLimits, sampling: FrameSampling) -> Frames:
    """Read the chosen ones of the pictures that `join_pictures` joined.

    They were taken at `fps` of the sampling.

    Raises:
        InvalidImageError: one cannot be decoded, or has another size than the first.
    """
    pictures = _split(data)
    times = [i / sampling.fps for i in range(len(pictures))]
    if not times:
        raise InvalidImageError("The video has no frames.")
    chosen = sampling.choose(times)
    frames: list[Image.Image] = []
    for i in chosen:
        try:
            picture = decode_image(pictures[i], limits.frame, "")
        except InvalidImageError as error:
            raise InvalidImageError(f"Frame {i + 1} cannot be read: {error}") from None
        picture = fit_picture(picture, limits.max_chosen_pixels // len(chosen))
        if frames and picture.size != frames[0].size:
            raise InvalidImageError(f"Frame {i + 1} has another size than the first; a video's frames have one size.")
        frames.append(picture)
    return Frames(frames, [times[i] for i in chosen])


def _split(data: bytes) -> list[bytes]:
    pictures, at = [], len(LIST_MARK)
    while at < len(data):
        start = at + _LENGTH.size
        if start > len(data):
            raise InvalidImageError("The list of frames is damaged.")
        at = start + _LENGTH.unpack_from(data, start - _LENGTH.size)[0]
        if at > len(data):
            raise InvalidImageError("The list of frames is damaged.")
        pictures.append(data[start:at])
    return pictures
