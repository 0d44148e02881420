"""Draw scenes of coloured shapes and digits, deterministic by seed.

Shapes are placed freely on a varied background.

Invariants: no two objects of a scene have the same kind and colour, none overlap, and every centre keeps a margin to
the lines that divide the picture into its nine regions, so that "top left" always has one right answer.
"""

import math
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

IMAGE_SIZE = 112
"""Width and height of a picture, in pixels."""
SHAPES = ("circle", "square", "triangle", "star")
DIGITS = tuple("0123456789")
KINDS = SHAPES + DIGITS
COLORS = {
    "red": (215, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (240, 220, 50),
    "green": (40, 165, 70),
    "blue": (45, 85, 225),
    "purple": (150, 60, 190),
}
SIZES = ("small", "large")
REGIONS = (
    "top left", "top center", "top right",
    "center left", "center", "center right",
    "bottom left", "bottom center", "bottom right",
)  # fmt: skip

_REGION_MARGIN = 2.5
_GAP = 2.0
_SUPERSAMPLING = 3
_RADII = {"small": (6.0, 7.5), "large": (11.5, 13.5)}


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One drawn object.

    Attributes:
        kind: one of KINDS.
        color: a key of COLORS.
        size: one of SIZES.
        x: centre, pixels from the left.
        y: centre, pixels from the top.
        radius: half of the width, in pixels.

    """

    kind: str
    color: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def region(self) -> int:
        """Index in REGIONS of the ninth of the picture in which the centre lies."""
        third = IMAGE_SIZE / 3
        return int(self.y // third) * 3 + int(self.x // third)

    @property
    def phrase(self) -> str:
        """The object in words, as in "small red circle"."""
        return f"{self.size} {self.color} {self.kind}"


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene: its objects in reading order, and the seed of its drawing.

    Reading order is by region, then left to right.
    """

    objects: tuple[SceneObject, ...]
    seed: int

    @property
    def caption(self) -> str:
        """The description the bundled model is trained to give."""
        text = ", ".join(f"a {o.phrase} at the {REGIONS[o.region]}" for o in self.objects)
        return f"A{text[1:]}."


def sample_scene(seed: int, min_objects: int = 1, max_objects: int = 4, digit_rate: float = 0.3) -> Scene:
    """Draw a scene's objects at random.

    Args:
        seed: the same seed gives the same scene.
        min_objects: fewest objects.
        max_objects: most objects.
        digit_rate: share of scenes with a digit among their objects (one at the most, always large).

    """
    rng = random.Random(seed)
    while True:
        count = rng.randint(min_objects, max_objects)
        digit_at = rng.randrange(count) if rng.random() < digit_rate else -1
        objects: list[SceneObject] = []
        for i in range(count):
            placed = _place(rng, objects, is_digit=i == digit_at)
            if placed is None:
                break
            objects.append(placed)
        else:
            return Scene(tuple(sorted(objects, key=lambda o: (o.region, o.x))), seed)


def _place(rng: random.Random, others: list[SceneObject], *, is_digit: bool) -> SceneObject | None:
    """Draw an object beside the others; None if 40 tries find no room."""
    for _ in range(40):
        kind = rng.choice(DIGITS if is_digit else SHAPES)
        color = rng.choice(tuple(COLORS))
        size = "large" if is_digit else rng.choice(SIZES)
        radius = rng.uniform(*_RADII[size])
        low, high = radius + 1, IMAGE_SIZE - radius - 1
        x, y = rng.uniform(low, high), rng.uniform(low, high)
        third = IMAGE_SIZE / 3
        if any(abs(c - line) < _REGION_MARGIN for c in (x, y) for line in (third, 2 * third)):
            continue
        if any(o.kind == kind and o.color == color for o in others):
            continue
        if any(max(abs(o.x - x), abs(o.y - y)) < o.radius + radius + _GAP for o in others):
            continue
        return SceneObject(kind, color, size, x, y, radius)
    return None


def render(scene: Scene) -> NDArray[np.uint8]:
    """Draw the scene: `[IMAGE_SIZE, IMAGE_SIZE, 3]`.

    The drawing is supersampled, then gets noise and a gradient.
    """
    rng = np.random.default_rng(scene.seed)
    base = rng.integers(20, 236) + rng.integers(-14, 15, size=3)
    big = IMAGE_SIZE * _SUPERSAMPLING
    canvas = Image.new("RGB", (big, big), _rgb(base))
    draw = ImageDraw.Draw(canvas)
    for o in scene.objects:
        _draw(draw, o, _rgb(np.array(COLORS[o.color]) + rng.integers(-18, 19, size=3)))
    small = canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    pixels: NDArray[np.floating] = np.asarray(small, dtype=np.float32)
    texture = rng.integers(3)
    if texture >= 1:
        pixels = pixels + rng.standard_normal((IMAGE_SIZE, IMAGE_SIZE, 1)) * rng.uniform(1, 6)
    if texture == 2:
        slope_x, slope_y = rng.uniform(-18, 18, size=2)
        yy, xx = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE] / IMAGE_SIZE - 0.5
        pixels = pixels + (slope_x * xx + slope_y * yy)[..., None]
    drawn: NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8)
    return drawn


def masks(scene: Scene) -> list[NDArray[np.bool_]]:
    """Return each object's pixels: `[IMAGE_SIZE, IMAGE_SIZE]`, True where drawn."""
    result = []
    for o in scene.objects:
        big = IMAGE_SIZE * _SUPERSAMPLING
        canvas = Image.new("RGB", (big, big), (0, 0, 0))
        _draw(ImageDraw.Draw(canvas), o, (255, 255, 255))
        small = canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
        result.append(np.asarray(small)[..., 0] >= 128)
    return result


def _rgb(values: NDArray[np.int64]) -> tuple[int, int, int]:
    r, g, b = np.clip(values, 0, 255).tolist()
    return r, g, b


def _draw(draw: ImageDraw.ImageDraw, o: SceneObject, fill: tuple[int, int, int]) -> None:
    x, y, r = o.x * _SUPERSAMPLING, o.y * _SUPERSAMPLING, o.radius * _SUPERSAMPLING
    if o.kind == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif o.kind == "square":
        q = r * 0.88
        draw.rectangle((x - q, y - q, x + q, y + q), fill=fill)
    elif o.kind == "triangle":
        draw.polygon([(x, y - r * 1.05), (x - r * 1.05, y + r * 0.85), (x + r * 1.05, y + r * 0.85)], fill=fill)
    elif o.kind == "star":
        tips = [(-math.pi / 2 + i * math.pi / 5, r * 1.15 if i % 2 == 0 else r * 0.46) for i in range(10)]
        draw.polygon([(x + d * math.cos(a), y + d * math.sin(a)) for a, d in tips], fill=fill)
    else:
        draw.text((x, y), o.kind, fill=fill, font=_font(int(r * 2.5)), anchor="mm", stroke_width=2, stroke_fill=fill)


@lru_cache(maxsize=64)
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(pixels)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
