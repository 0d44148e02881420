"""Choose a video's frames by their times."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

_LATE = 1e-6  # seconds: times are sums of fractions


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """The frames that are chosen from a video.

    Attributes:
        fps: frames a second, above 0.
        max_frames: most frames, at least 1; a longer video has them further apart.
    """

    fps: float = 2.0
    max_frames: int = 32

    def choose(self, times: Sequence[float]) -> list[int]:
        """Choose frames spread evenly from the first to the last.

        Args:
            times: of all frames, in seconds, ascending, at least one.

        Returns:
            Indices of the frames shown at these moments, ascending, none twice.
        """
        first, length = times[0], times[-1] - times[0]
        count = min(self.max_frames, 1 + math.floor(min(length * self.fps + _LATE, self.max_frames)))
        moments = [first + length * i / (count - 1) for i in range(count)] if count > 1 else [first]
        return sorted({max(0, bisect_right(times, moment + _LATE) - 1) for moment in moments})


class Frames(NamedTuple):
    """The frames chosen from a video."""

    pictures: list[Image.Image]  # RGB, of one size
    times: list[float]  # seconds from the video's first frame


def fit_size(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """Make a size smaller, in about its shape, until it has at most so many pixels."""
    scale = min(1.0, math.sqrt(max_pixels / (size[0] * size[1])))
    return max(1, math.floor(size[0] * scale)), max(1, math.floor(size[1] * scale))


def fit_picture(picture: Image.Image, max_pixels: int) -> Image.Image:
    """Make a picture smaller until it has at most so many pixels."""
    size = fit_size(picture.size, max_pixels)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BOX)
