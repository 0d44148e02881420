"""Name what a question may be about: images, and videos as chosen frames."""

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """Frames chosen from a video.

    Attributes:
        frames: RGB, in their order, all of one size, at least one.
        times: of each, in seconds from the first frame of the video.
    """

    frames: tuple[Image.Image, ...]
    times: tuple[float, ...]


Visual = Image.Image | Video
