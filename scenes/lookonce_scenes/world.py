"""Draw scenes of coloured shapes and digits, deterministic by seed.

Shapes are placed freely on a varied background. There are two worlds: NARROW, in which the evaluation's scenes are
drawn, and WIDE, with more shapes and colours, drawn as other people draw.

Invariants: no two objects of a scene have the same kind and colour, none overlap, and every centre keeps a margin to
the lines that divide the picture into its nine regions, so that "top left" always has one right answer.
"""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO

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

RGB = tuple[int, int, int]

_REGION_MARGIN = 2.5
_GAP = 2.0
_SUPERSAMPLING = 3
_RADII = {"small": (6.0, 7.5), "large": (11.5, 13.5)}
_WIDE_RADII = {"small": (5.0, 8.5), "large": (11.0, 46.0)}
_MIN_CONTRAST = 72.0
"""Least distance of a wide scene's objects from the ground, in RGB."""
# What people and drawing libraries call by a name.
_WIDE_COLORS: dict[str, tuple[RGB, ...]] = {
    "red": (COLORS["red"], (255, 0, 0), (220, 20, 40), (200, 0, 0)),
    "orange": (COLORS["orange"], (255, 165, 0), (255, 140, 0)),
    "yellow": (COLORS["yellow"], (255, 255, 0), (255, 220, 0)),
    "green": (COLORS["green"], (0, 128, 0), (0, 255, 0), (0, 190, 0), (50, 205, 50)),
    "blue": (COLORS["blue"], (0, 0, 255), (30, 60, 200), (0, 0, 190), (40, 110, 240)),
    "purple": (COLORS["purple"], (128, 0, 128), (140, 0, 200), (110, 40, 150)),
    "black": ((0, 0, 0), (15, 15, 15), (25, 25, 25)),
    "gray": ((128, 128, 128), (105, 105, 105), (155, 155, 155)),
    "white": ((255, 255, 255), (248, 248, 248)),
    "brown": ((139, 69, 19), (150, 75, 0), (120, 70, 35), (160, 45, 42)),
    "teal": ((0, 128, 128), (20, 140, 140)),
    "cyan": ((0, 255, 255), (0, 220, 230)),
    "pink": ((255, 192, 203), (255, 105, 180), (255, 150, 190)),
}


@dataclass(frozen=True, slots=True)
class World:
    """The shapes and colours that scenes are drawn from.

    Attributes:
        shapes: their names; digits are in every world.
        colors: their names.
        is_varied: objects of any size and form, on any ground, drawn in many ways.

    """

    shapes: tuple[str, ...]
    colors: tuple[str, ...]
    is_varied: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The shapes and the digits."""
        return self.shapes + DIGITS


NARROW = World(SHAPES, tuple(COLORS))
WIDE = World((*SHAPES, "rectangle", "oval"), tuple(_WIDE_COLORS), is_varied=True)


@dataclass(frozen=True, slots=True)
class Style:
    """How a wide scene is drawn.

    Attributes:
        ground: the background's colour.
        ground_name: its name, empty where it has none.
        canvas: width of the drawing before it is resized to IMAGE_SIZE.
        is_smooth: whether edges are anti-aliased.
        resampling: of Pillow, for the resizing.
        quality: of JPEG, 0 for none.
        noise: standard deviation.
        slope: gradient along x and y, from edge to edge.

    """

    ground: RGB
    ground_name: str
    canvas: int
    is_smooth: bool
    resampling: int
    quality: int
    noise: float
    slope: tuple[float, float]


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One drawn object.

    Attributes:
        kind: one of its world's kinds.
        color: one of its world's colours.
        size: one of SIZES.
        x: centre, pixels from the left.
        y: centre, pixels from the top.
        radius: half of the width, or of the height if it is more, in pixels.
        rgb: the colour as drawn; None draws it near the one of COLORS.
        aspect: width over height.
        turn: degrees, clockwise.
        lean: how far a triangle's top is moved to the right, in half widths.
        waist: the inner radius of a star, in radii.
        line: width of the outline of an object that is not filled, 0 for a filled one.

    """

    kind: str
    color: str
    size: str
    x: float
    y: float
    radius: float
    rgb: RGB | None = None
    aspect: float = 1.0
    turn: float = 0.0
    lean: float = 0.0
    waist: float = 0.46
    line: float = 0.0

    @property
    def half_width(self) -> float:
        """Half of the width before it is turned."""
        return self.radius * min(1.0, self.aspect)

    @property
    def half_height(self) -> float:
        """Half of the height before it is turned."""
        return self.radius * min(1.0, 1 / self.aspect)

    @property
    def region(self) -> int:
        """Index in REGIONS of the ninth of the picture in which the centre lies."""
        third = IMAGE_SIZE / 3
        return int(self.y // third) * 3 + int(self.x // third)

    @property
    def phrase(self) -> str:
        """The object in words, as in "small red circle" or "large blue outlined star"."""
        return f"{self.size} {self.color} {'outlined ' if self.line else ''}{self.kind}"


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene: its objects in reading order, and the seed of its drawing.

    Reading order is by region, then left to right.
    """

    objects: tuple[SceneObject, ...]
    seed: int
    world: World = NARROW
    style: Style | None = None

    @property
    def caption(self) -> str:
        """The description the bundled model is trained to give."""
        text = ", ".join(f"a {o.phrase} at the {REGIONS[o.region]}" for o in self.objects)
        return f"A{text[1:]}."


def sample_scene(
    seed: int, min_objects: int = 1, max_objects: int = 4, digit_rate: float = 0.3, world: World = NARROW
) -> Scene:
    """Draw a scene's objects at random.

    Args:
        seed: the same seed gives the same scene.
        min_objects: fewest objects.
        max_objects: most objects.
        digit_rate: share of scenes with a digit among their objects (one at the most, always large).
        world: what is drawn from.

    """
    rng = random.Random(seed)
    style = sample_style(rng) if world.is_varied else None
    while True:
        count = rng.randint(min_objects, max_objects)
        if world.is_varied and rng.random() < 0.25:
            count = min_objects  # one object alone is what people try first
        digit_at = rng.randrange(count) if rng.random() < digit_rate else -1
        objects: list[SceneObject] = []
        for i in range(count):
            placed = place_object(rng, objects, world, style, is_digit=i == digit_at, room=46 / count**0.6)
            if placed is None:
                break
            objects.append(placed)
        else:
            return Scene(in_reading_order(objects), seed, world, style)


def in_reading_order(objects: Iterable[SceneObject]) -> tuple[SceneObject, ...]:
    """Sort objects by region, then left to right."""
    return tuple(sorted(objects, key=lambda o: (o.region, o.x)))


def place_object(
    rng: random.Random,
    others: Sequence[SceneObject],
    world: World = NARROW,
    style: Style | None = None,
    *,
    is_digit: bool = False,
    room: float = 46.0,
) -> SceneObject | None:
    """Draw an object beside the others; None if 40 tries find no room.

    Args:
        rng: decides.
        others: what is there.
        world: what is drawn from.
        style: of a varied world's scene.
        is_digit: a digit, no shape.
        room: largest radius in a varied world.

    """
    radii = _WIDE_RADII if world.is_varied else _RADII
    for _ in range(40):
        kind = rng.choice(DIGITS if is_digit else world.shapes)
        color = rng.choice(world.colors)
        size = "large" if is_digit else rng.choice(SIZES)
        low, high = radii[size]
        radius = rng.uniform(low, min(high, room) if size == "large" else high)
        x, y = rng.uniform(radius + 1, IMAGE_SIZE - radius - 1), rng.uniform(radius + 1, IMAGE_SIZE - radius - 1)
        third = IMAGE_SIZE / 3
        if any(abs(c - line) < _REGION_MARGIN for c in (x, y) for line in (third, 2 * third)):
            continue
        if any(o.kind == kind and o.color == color for o in others):
            continue
        if any(max(abs(o.x - x), abs(o.y - y)) < o.radius + radius + _GAP for o in others):
            continue
        placed = SceneObject(kind, color, size, x, y, radius)
        if style is None:
            return placed
        placed = _vary(rng, placed)
        if fits_ground(placed, style):
            return placed
    return None


def fits_ground(o: SceneObject, style: Style | None) -> bool:
    """Whether an object stands out from the ground that it is drawn on."""
    return style is None or o.rgb is None or math.dist(o.rgb, style.ground) >= _MIN_CONTRAST


def _vary(rng: random.Random, o: SceneObject) -> SceneObject:
    """Give an object of a varied world its own form and tone."""
    aspect, turn, lean, waist = 1.0, 0.0, 0.0, 0.46
    if o.kind in ("rectangle", "oval"):
        aspect = rng.uniform(1.45, 2.6 if o.size == "large" else 1.9) ** rng.choice((-1, 1))
    elif o.kind == "triangle":
        aspect = rng.choice((1.0, 1.0, rng.uniform(0.7, 1.4)))
        turn = rng.choice((0.0, 0.0, 0.0, 90.0, 180.0, 270.0))
        lean = rng.choice((0.0, 0.0, 0.0, -1.0, 1.0, rng.uniform(-0.5, 0.5)))
    elif o.kind == "star":
        waist = rng.choice((0.46, rng.uniform(0.4, 0.62)))
        turn = rng.choice((0.0, 0.0, 0.0, 36.0))
    line = 0.0
    if o.size == "large" and o.kind not in DIGITS and rng.random() < 0.15:
        line = rng.uniform(1.6, min(5.0, o.radius / 6 + 1))
    return replace(
        o,
        rgb=draw_tone(rng, o.color),
        aspect=aspect,
        turn=turn,
        lean=lean,
        waist=waist,
        line=line,
    )


def draw_tone(rng: random.Random, color: str) -> RGB:
    """Draw a colour that people call by that name."""
    reach = rng.choice((0, 6, 12))
    if color in ("black", "gray", "white"):
        shift = rng.randint(-reach, reach)
        r, g, b = (max(0, min(255, v + shift)) for v in rng.choice(_WIDE_COLORS[color]))
    else:
        r, g, b = (max(0, min(255, v + rng.randint(-reach, reach))) for v in rng.choice(_WIDE_COLORS[color]))
    return r, g, b


def sample_style(rng: random.Random) -> Style:
    """Draw how a scene of a varied world looks."""
    form = rng.random()
    name = "white" if form < 0.3 else "black" if form < 0.42 else rng.choice(WIDE.colors) if form < 0.55 else ""
    if name:
        ground = draw_tone(rng, name)
    else:
        base = rng.randint(15, 240)
        r, g, b = (max(0, min(255, base + rng.randint(-18, 18))) for _ in range(3))
        ground = (r, g, b)
    is_plain = rng.random() < 0.55
    return Style(
        ground,
        name if is_plain else "",
        canvas=rng.choice((IMAGE_SIZE, IMAGE_SIZE, IMAGE_SIZE, 64, 96, 128, 160, 224, 224, 256, 336)),
        is_smooth=rng.random() < 0.5,
        resampling=rng.choice((2, 3, 3, 3, 4)),
        quality=rng.randint(30, 95) if rng.random() < 0.25 else 0,
        noise=0.0 if is_plain or rng.random() < 0.3 else rng.uniform(1, 6),
        slope=(0.0, 0.0) if is_plain or rng.random() < 0.5 else (rng.uniform(-18, 18), rng.uniform(-18, 18)),
    )


def render(scene: Scene) -> NDArray[np.uint8]:
    """Draw the scene: `[IMAGE_SIZE, IMAGE_SIZE, 3]`."""
    return _render_narrow(scene) if scene.style is None else _render_wide(scene, scene.style)


def _render_narrow(scene: Scene) -> NDArray[np.uint8]:
    """Draw supersampled, then add noise and a gradient."""
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
        pixels = _sloped(pixels, slope_x, slope_y)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _render_wide(scene: Scene, style: Style) -> NDArray[np.uint8]:
    """Draw as the style says."""
    width = style.canvas * (_SUPERSAMPLING if style.is_smooth else 1)
    canvas = Image.new("RGB", (width, width), style.ground)
    draw = ImageDraw.Draw(canvas)
    for o in scene.objects:
        assert o.rgb is not None
        _draw(draw, o, o.rgb, width / IMAGE_SIZE)
    if style.is_smooth:
        canvas = canvas.resize((style.canvas, style.canvas), Image.Resampling.BOX)
    if style.quality:
        file = BytesIO()
        canvas.save(file, "JPEG", quality=style.quality)
        canvas = Image.open(file)
    if style.canvas != IMAGE_SIZE:
        canvas = canvas.resize((IMAGE_SIZE, IMAGE_SIZE), style.resampling)
    pixels: NDArray[np.floating] = np.asarray(canvas, dtype=np.float32)
    if style.noise:
        noise = np.random.default_rng(scene.seed).standard_normal((IMAGE_SIZE, IMAGE_SIZE, 1))
        pixels = pixels + noise * style.noise
    return np.clip(_sloped(pixels, *style.slope), 0, 255).astype(np.uint8)


def _sloped(pixels: NDArray[np.floating], slope_x: float, slope_y: float) -> NDArray[np.floating]:
    yy, xx = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE] / IMAGE_SIZE - 0.5
    sloped: NDArray[np.floating] = pixels + (slope_x * xx + slope_y * yy)[..., None]
    return sloped


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


def _rgb(values: NDArray[np.int64]) -> RGB:
    r, g, b = np.clip(values, 0, 255).tolist()
    return r, g, b


def _draw(draw: ImageDraw.ImageDraw, o: SceneObject, fill: RGB, scale: float = _SUPERSAMPLING) -> None:
    x, y, r = o.x * scale, o.y * scale, o.radius * scale
    if o.kind in DIGITS:
        bold = max(1, round(2 * scale / _SUPERSAMPLING))
        draw.text((x, y), o.kind, fill=fill, font=_font(int(r * 2.5)), anchor="mm", stroke_width=bold, stroke_fill=fill)
        return
    w, h = o.half_width * scale, o.half_height * scale
    inside = None if o.line else fill
    line = max(1, round(o.line * scale))
    if o.kind in ("circle", "oval"):
        draw.ellipse((x - w, y - h, x + w, y + h), fill=inside, outline=fill if o.line else None, width=line)
    elif o.kind in ("square", "rectangle"):
        if o.kind == "square":
            w, h = w * 0.88, h * 0.88
        draw.rectangle((x - w, y - h, x + w, y + h), fill=inside, outline=fill if o.line else None, width=line)
    else:
        corners = _triangle(w, h, o.lean) if o.kind == "triangle" else _star(r, o.waist)
        turn = math.radians(o.turn)
        points = [
            (x + dx * math.cos(turn) - dy * math.sin(turn), y + dx * math.sin(turn) + dy * math.cos(turn))
            for dx, dy in corners
        ]
        draw.polygon(points, fill=inside, outline=fill if o.line else None, width=line)


def _triangle(w: float, h: float, lean: float) -> list[tuple[float, float]]:
    return [(lean * w * 1.05, -h * 1.05), (-w * 1.05, h * 0.85), (w * 1.05, h * 0.85)]


def _star(r: float, waist: float) -> list[tuple[float, float]]:
    tips = [(-math.pi / 2 + i * math.pi / 5, r * 1.15 if i % 2 == 0 else r * waist) for i in range(10)]
    return [(d * math.cos(a), d * math.sin(a)) for a, d in tips]


@lru_cache(maxsize=64)
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(pixels)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
