"""The largest image accepted."""

from dataclasses import dataclass

# Pillow refuses more, as a decompression bomb.
MAX_PIXELS = 178_956_970


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
