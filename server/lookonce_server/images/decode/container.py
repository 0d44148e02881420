"""Read frames of MP4 and WebM, with FFmpeg's libraries through PyAV.

Strangers' bytes meet a large library here, so little of it can be reached: the demuxer that the first bytes name, on
bytes in memory, and the decoders of `CODECS`. No protocol is there to open a file or an address with.
"""

import io
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode.frames import Frames, FrameSampling, fit_size
from lookonce_server.images.decode.limits import ImageLimits, VideoLimits

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer
    from PIL import Image

CONTAINERS = {"MP4": "mov", "WEBM": "matroska"}  # and FFmpeg's demuxer of each
CODECS = {"h264": "H.264", "hevc": "H.265", "vp8": "VP8", "vp9": "VP9", "libdav1d": "AV1", "mpeg4": "MPEG-4"}
_MAX_PACKETS = 1_000_000
_LOOK_AHEAD = 8  # frames that are decoded on the way, rather than looked for anew


class _Packet(NamedTuple):
    """An encoded frame's times, in the stream's unit."""

    shown: int
    decoded: int
    is_key: bool


def read_container(data: bytes, name: str, limits: VideoLimits, sampling: FrameSampling) -> Frames:
    """Read the chosen frames of a video.

    Args:
        data: the encoded video.
        name: one of CONTAINERS.
        limits: the largest video accepted.
        sampling: which frames are chosen.

    Raises:
        InvalidImageError: it is beyond the limits, or has no video of CODECS.
        Exception: FFmpeg's errors, on damaged files.
    """
    with _open(data, name, limits) as (container, stream):
        packets = _packets(container, stream)
        unit = stream.time_base or Fraction(1, 1000)
        times = [float((packet.shown - packets[0].shown) * unit) for packet in packets]
        limits.check_times(times)
        chosen = [packets[i].shown for i in sampling.choose(times)]
        max_pixels = limits.max_chosen_pixels // len(chosen)
        view: _View | None = None
        pictures: list[Image.Image] = []
        shown: list[float] = []
        for frame in _frames_at(container, stream, chosen, packets):
            view = view or _view(frame, stream, limits.frame, max_pixels)
            pictures.append(view.render(frame))
            shown.append(float(((frame.pts or 0) - packets[0].shown) * unit))
    return Frames(pictures, shown)


@contextmanager
def _open(data: bytes, name: str, limits: VideoLimits) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    import av

    demuxer, max_pixels = CONTAINERS[name], str(limits.frame.max_pixels)
    # What FFmpeg itself may use while it looks into the file.
    allowed = {
        "format_whitelist": demuxer,
        "codec_whitelist": ",".join(CODECS),
        "protocol_whitelist": "none",
        "max_pixels": max_pixels,
    }
    file = io.BytesIO(data)
    with av.open(file, "r", demuxer, container_options=allowed, metadata_errors="replace") as container:
        if not container.streams.video:
            raise InvalidImageError("The file has no video.")
        stream = container.streams.video[0]
        codec = stream.codec_context
        if codec is None or codec.codec.name not in CODECS:
            name = codec.codec.name if codec else "unknown"
            raise InvalidImageError(f"The video's codec is {name}; accepted: {', '.join(CODECS.values())}.")
        limits.frame.check_size((codec.width, codec.height), "video")
        codec.thread_count, codec.thread_type = 1, "NONE"  # each thread would need memory, and a core
        codec.options = {"max_pixels": max_pixels}
        yield container, stream


def _packets(container: "InputContainer", stream: "VideoStream") -> list[_Packet]:
    """List the encoded frames in the order in which they are shown.

    Nothing is decoded. What headers say of the length need not be true, or there.
    """
    packets: list[_Packet] = []
    for packet in container.demux(stream):
        if packet.pts is not None and packet.size:
            decoded = packet.pts if packet.dts is None else packet.dts
            packets.append(_Packet(packet.pts, decoded, packet.is_keyframe))
        if len(packets) > _MAX_PACKETS:
            raise InvalidImageError(f"The video has more than {_MAX_PACKETS} frames.")
    if not packets:
        raise InvalidImageError("The video has no frames.")
    return sorted(packets)


def _frames_at(
    container: "InputContainer", stream: "VideoStream", chosen: list[int], packets: list[_Packet]
) -> Iterator["VideoFrame"]:
    """Decode the frames that are shown at these times, each from the key frame before it."""
    shown = [packet.shown for packet in packets]
    keys = [i for i, packet in enumerate(packets) if packet.is_key]
    frames: Iterator[VideoFrame] = iter(())
    frame: VideoFrame | None = None
    for time in chosen:
        key = keys[_last(keys, _last(shown, time))] if keys else 0
        if frame is None or key > _last(shown, frame.pts or 0) + _LOOK_AHEAD:
            container.seek(min(packets[key].shown, packets[key].decoded), stream=stream)
            frames, frame = container.decode(stream), None
        while frame is None or (frame.pts is not None and frame.pts < time):
            following = next(frames, None)
            if following is None:
                raise InvalidImageError("The video is damaged: it ends too early.")
            frame = following
        if frame.is_corrupt:
            raise InvalidImageError("The video is damaged: a frame cannot be decoded whole.")
        yield frame


def _last(ascending: list[int], value: int) -> int:
    """Return the index of the last number that is at most `value`; 0 if there is none."""
    return max(0, bisect_right(ascending, value) - 1)


class _View(NamedTuple):
    """How all frames of a video become pictures."""

    size: tuple[int, int]  # before it is turned
    turn: int  # degrees, counterclockwise

    def render(self, frame: "VideoFrame") -> "Image.Image":
        """Render a frame as RGB."""
        width, height = self.size
        picture: Image.Image = frame.to_image(  # type: ignore[no-untyped-call]
            width=width, height=height, interpolation="AREA", threads=1
        )
        return picture.rotate(self.turn, expand=True) if self.turn else picture


def _view(frame: "VideoFrame", stream: "VideoStream", limits: ImageLimits, max_pixels: int) -> _View:
    """Return the view of square pixels, upright, within the limits."""
    ratio = stream.sample_aspect_ratio or Fraction(1)
    size = max(1, round(frame.width * ratio)) if ratio > 0 else frame.width, frame.height
    limits.check_size(size, "video")
    turn = frame.rotation % 360
    return _View(fit_size(size, max_pixels), 0 if turn % 90 else turn)
