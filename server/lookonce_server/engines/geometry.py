"""Find the part of a picture that the image tokens cover.

Image processors crop pictures, and pad them, or show all of them. Where they cut them into tiles, `tiles` tells.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

# Those that only pad to a square, resize and crop from the centre, each where told, in this order.
_STEPWISE = {"CLIPImageProcessor", "LlavaImageProcessor", "SiglipImageProcessor", "ViTImageProcessor"}


class Area(NamedTuple):
    """A rectangle of a picture and of the padding around it, in its pixels where nothing else is said."""

    left: float
    top: float
    right: float
    bottom: float

    def shares(self, width: int, height: int) -> "Area":
        """Return the rectangle in shares of the picture's width and height."""
        return Area(self.left / width, self.top / height, self.right / width, self.bottom / height)


@dataclass(frozen=True, slots=True)
class ImageCrop:
    """The part of a picture that an image processor shows; whole by default.

    Attributes:
        pads: makes it a square first, the picture in the middle.
        shorter_side: that the resized picture has, its shape kept; None where it is squeezed to `resized`, or left.
        resized: height and width, or None.
        crop: height and width of what is cut from the centre of that, or None.
    """

    pads: bool = False
    shorter_side: int | None = None
    resized: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None

    def area(self, width: int, height: int) -> Area:
        """Return the part of a picture that the grid of image tokens covers."""
        whole_width = whole_height = max(width, height)
        if not self.pads:
            whole_width, whole_height = width, height
        left, top = -float((whole_width - width) // 2), -float((whole_height - height) // 2)
        if self.crop is None:
            return Area(left, top, left + whole_width, top + whole_height)
        new_width, new_height = self._resized(whole_width, whole_height)
        crop_height, crop_width = self.crop
        x, y = whole_width / new_width, whole_height / new_height  # pixels of the picture in one of the resized
        left += (new_width - crop_width) // 2 * x
        top += (new_height - crop_height) // 2 * y
        return Area(left, top, left + crop_width * x, top + crop_height * y)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height after resizing."""
        if self.shorter_side is not None:
            longer = int(self.shorter_side * max(width, height) / min(width, height))
            return (self.shorter_side, longer) if width <= height else (longer, self.shorter_side)
        return (self.resized[1], self.resized[0]) if self.resized else (width, height)


def image_crop(processor: Any) -> ImageCrop | None:
    """Read a model's image processor; None for one that is not known.

    Those that cut pictures into tiles are not.

    Args:
        processor: of transformers, with an image processor.
    """
    images = processor.image_processor
    if "image_grid_thw" in images.model_input_names:  # as Qwen2-VL's: one grid over the whole picture
        return ImageCrop()
    if type(images).__name__.removesuffix("Pil").removesuffix("Fast") not in _STEPWISE:
        return None
    resizes, crops = bool(images.do_resize), bool(getattr(images, "do_center_crop", False))
    return ImageCrop(
        pads=bool(getattr(images, "do_pad", False)),
        shorter_side=images.size.shortest_edge if resizes else None,
        resized=_pair(images.size) if resizes else None,
        crop=_pair(images.crop_size) if crops else None,
    )


def _pair(size: Any) -> tuple[int, int] | None:
    return (size.height, size.width) if size.height and size.width else None
