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

    def thin_out(self, count: int) -> "Video":
        """Return a video of fewer frames, spread evenly from the first to the last."""
        last = len(self.frames) - 1
        kept = [round(last * i / (count - 1)) for i in range(count)] if count > 1 else [0]
        return Video(tuple(self.frames[i] for i in kept), tuple(self.times[i] for i in kept))


Visual = Image.Image | Video


def pixels_of(visual: Visual) -> int:
    """Count the pixels of an image, or of all frames of a video."""
    pictures = visual.frames if isinstance(visual, Video) else (visual,)
    return sum(picture.width * picture.height for picture in pictures)


def frames_of(visual: Visual) -> int | None:
    """Return the number of a video's frames; None for an image."""
    return len(visual.frames) if isinstance(visual, Video) else None
