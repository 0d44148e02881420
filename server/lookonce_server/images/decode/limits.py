"""The largest images and videos accepted."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lookonce_server.errors import InvalidImageError

# Pillow refuses more, as a decompression bomb.
MAX_PIXELS = 178_956_970
# Of a video's frame: those of H.264's level 5.2, which is 4096 x 2304.
MAX_FRAME_PIXELS = 9_437_184
# Of all frames that are chosen from a video; larger ones are made smaller. 32 frames have what Qwen-VL takes of each.
MAX_CHOSEN_PIXELS = 20_000_000


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest image accepted.

    Attributes:
        max_bytes: encoded size, in bytes.
        max_pixels: width times height, at most MAX_PIXELS.
        max_side: width, and height.
        max_aspect: the longer side over the shorter one. Many models' processors scale the shorter side to a fixed
            length: of a line of 20000 x 1 pixels that would make gigabytes.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 40_000_000
    max_side: int = 20_000
    max_aspect: int = 200

    @property
    def memory(self) -> int:
        """Address space in bytes for decoding the largest image; see docs/research/images.md."""
        return 1024**3 + 4 * self.max_bytes + 32 * self.max_pixels

    def check_size(self, size: tuple[int, int], noun: str = "image") -> None:
        """Raise InvalidImageError, calling it `noun`, if width and height are beyond the limits."""
        actual = f"The {noun} has {size[0]} x {size[1]} pixels"
        if size[0] * size[1] > self.max_pixels:
            raise InvalidImageError(f"{actual}; the limit is {self.max_pixels} in all.")
        if max(size) > self.max_side:
            raise InvalidImageError(f"{actual}; the limit is {self.max_side} a side.")
        if max(size) > self.max_aspect * min(size):
            raise InvalidImageError(
                f"{actual}; the longer side may be {self.max_aspect} times the shorter one at most."
            )


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """The largest video accepted.

    Attributes:
        max_bytes: encoded size, in bytes.
        max_seconds: from the first frame to the last.
        max_frames: that are chosen from one.
        frame: of each frame; `max_pixels` is at most MAX_FRAME_PIXELS.
        max_chosen_pixels: of the chosen frames together.
    """

    max_bytes: int = 32 * 1024 * 1024
    max_seconds: float = 600.0
    max_frames: int = 32
    frame: ImageLimits = field(default_factory=lambda: ImageLimits(max_pixels=MAX_FRAME_PIXELS))
    max_chosen_pixels: int = MAX_CHOSEN_PIXELS

    @property
    def memory(self) -> int:
        """Address space in bytes for decoding the largest video.

        A decoder holds up to 17 frames that later ones refer to, of 3 bytes a pixel at 10 bits, and some on their way.
        """
        return 1024**3 + 2 * self.max_bytes + 100 * self.frame.max_pixels + 12 * self.max_chosen_pixels

    def check_times(self, times: Sequence[float]) -> None:
        """Raise InvalidImageError at a video of no frames, or of too many seconds.

        Args:
            times: of its frames, in seconds, ascending.
        """
        if not times:
            raise InvalidImageError("The video has no frames.")
        if (length := times[-1] - times[0]) > self.max_seconds:
            raise InvalidImageError(f"The video has {length:.1f} seconds; the limit is {self.max_seconds:g}.")
