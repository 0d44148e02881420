"""The messages between the server and the processes that decode."""

import struct
from dataclasses import astuple
from typing import Literal, NamedTuple

from lookonce_server.images.decode.frames import FrameSampling
from lookonce_server.images.decode.limits import ImageLimits, VideoLimits

# What is to be decoded, and how many bytes of it follow; then its limits, and then these bytes.
REQUEST = struct.Struct(">BQ")
# Width, height and number of the pictures, all 0 for a refusal; then how many bytes follow: for each picture its time
# in seconds, then the RGB pixels of them all; or a text in UTF-8.
REPLY = struct.Struct(">IIIQ")
TIME = struct.Struct(">d")

# max_bytes, max_pixels, max_side, max_aspect.
_IMAGE = struct.Struct(">QQQQ")
# max_bytes, max_seconds, max_frames, max_chosen_pixels; fps, max_frames; then the limits of a frame.
_VIDEO = struct.Struct(">QdQQdQ")


class VideoOptions(NamedTuple):
    """How a video is decoded."""

    limits: VideoLimits
    sampling: FrameSampling


Options = ImageLimits | VideoOptions
Noun = Literal["image", "video"]


def noun_of(options: Options) -> Noun:
    """Name what is decoded with these options."""
    return "video" if isinstance(options, VideoOptions) else "image"


def pack_request(options: Options, length: int) -> bytes:
    """Pack the head of a request, for an image or a video of so many bytes."""
    packed = _pack_video(options) if isinstance(options, VideoOptions) else _IMAGE.pack(*astuple(options))
    return REQUEST.pack(isinstance(options, VideoOptions), length) + packed


def options_size(is_video: bool) -> int:
    """Count the bytes of the options in a request."""
    return _IMAGE.size + (_VIDEO.size if is_video else 0)


def unpack_options(data: bytes) -> Options:
    """Unpack the options of a request."""
    frame = ImageLimits(*_IMAGE.unpack(data[-_IMAGE.size :]))
    if len(data) == _IMAGE.size:
        return frame
    max_bytes, max_seconds, max_frames, max_chosen, fps, most = _VIDEO.unpack(data[: _VIDEO.size])
    limits = VideoLimits(max_bytes, max_seconds, max_frames, frame, max_chosen)
    return VideoOptions(limits, FrameSampling(fps, most))


def _pack_video(options: VideoOptions) -> bytes:
    limits, sampling = options
    numbers = (limits.max_bytes, limits.max_seconds, limits.max_frames, limits.max_chosen_pixels)
    return _VIDEO.pack(*numbers, sampling.fps, sampling.max_frames) + _IMAGE.pack(*astuple(limits.frame))
