"""Decode any bytes: to a video's frames within the limits, or to one clear error."""

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode.animation import ANIMATIONS, LIST_MARK, read_animation, read_pictures
from lookonce_server.images.decode.container import CONTAINERS, read_container
from lookonce_server.images.decode.decoder import clear_errors
from lookonce_server.images.decode.formats import container_of, format_of
from lookonce_server.images.decode.frames import Frames, FrameSampling
from lookonce_server.images.decode.limits import VideoLimits

VIDEO_FORMATS = (*CONTAINERS, *ANIMATIONS)


def decode_video(data: bytes, limits: VideoLimits, sampling: FrameSampling, param: str) -> Frames:
    """Decode the chosen frames of a video to RGB, upright, with square pixels.

    Like `decode_image`, only one thread at a time may call this.

    Args:
        data: the encoded video, or a list of pictures: see `join_pictures`.
        limits: the largest video accepted.
        sampling: which frames are chosen.
        param: the request's field that it came in.

    Raises:
        InvalidImageError: not a video of VIDEO_FORMATS, damaged, or beyond the limits.
    """
    name = _format_of(data)
    with clear_errors("video", param, name or ""):
        if name is None:
            raise InvalidImageError(f"The bytes are no video of a known format ({', '.join(VIDEO_FORMATS)}).")
        if name in CONTAINERS:
            return read_container(data, name, limits, sampling)
        if name in ANIMATIONS:
            return read_animation(data, name, limits, sampling)
        return read_pictures(data, limits, sampling)


def _format_of(data: bytes) -> str | None:
    """Return the format that a video's first bytes name."""
    if data.startswith(LIST_MARK):
        return "list of frames"
    name = format_of(data)
    return name if name in ANIMATIONS else container_of(data)
