"""Draw pictures as other people do: a few lines of Pillow each, with none of the world's code.

Sizes, grounds, tones, edges and wordings are not the training's; what is asked lies within its vocabulary.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image, ImageDraw


class OtherPicture(NamedTuple):
    """A picture and a question about it."""

    name: str
    image: Image.Image
    kind: str  # of question
    question: str
    answer: str


COLORS = {
    "red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "orange": (255, 165, 0),
    "purple": (128, 0, 128), "black": (0, 0, 0), "pink": (255, 192, 203), "brown": (139, 69, 19),
    "gray": (128, 128, 128),
    "cyan": (0, 255, 255), "teal": (0, 128, 128),
}  # fmt: skip
GROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "light": (224, 224, 232), "beige": (245, 235, 215)}
FORMS = ("circle", "square", "triangle", "star", "rectangle", "oval")
_STAR = [(50, 0), (61, 35), (98, 35), (68, 57), (79, 91), (50, 70), (21, 91), (32, 57), (2, 35), (39, 35)]


def is_right(answer: str, expected: str) -> bool:
    """Whether an answer says what is expected, be it in a longer phrase; yes and no by the first word."""
    words = re.findall(r"[a-z0-9]+", answer.lower())
    if expected in ("yes", "no"):
        return words[:1] == [expected]
    return bool(words) and all(word in words for word in expected.split())


def _draw_form(
    draw: ImageDraw.ImageDraw, form: str, box: tuple[int, int, int, int], color: tuple[int, int, int]
) -> None:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    if form in ("circle", "oval"):
        inset = 0 if form == "circle" else height // 4
        draw.ellipse((left, top + inset, right, bottom - inset), fill=color)
    elif form in ("square", "rectangle"):
        inset = 0 if form == "square" else height // 4
        draw.rectangle((left, top + inset, right, bottom - inset), fill=color)
    elif form == "triangle":
        draw.polygon([(left, bottom), (right, bottom), (left + width / 2, top)], fill=color)
    else:
        draw.polygon([(left + x * width / 100, top + y * height / 92) for x, y in _STAR], fill=color)


def _ask_alone(name: str, image: Image.Image, form: str, color: str) -> Iterator[OtherPicture]:
    wrong_color = "blue" if color != "blue" else "red"
    wrong_form = "square" if form in ("circle", "triangle", "star", "oval") else "circle"
    questions = (
        ("shape", "What shape is present?", form),
        ("shape", f"What shape is the {color} object?", form),
        ("color", f"What color is the {form}?", color),
        ("color", "Color?", color),
        ("count", "How many objects are there?", "1"),
        ("yes", f"Is there a {form}?", "yes"),
        ("no", f"Is there a {wrong_form}?", "no"),
        ("no", f"Is the {form} {wrong_color}?", "no"),
        ("negation", f"Is there no {form}?", "no"),
        ("foreign", "Is there a giraffe in the image?", "no"),
        ("describe", "Describe the image.", f"{color} {form}"),
        ("polite", f"Could you please tell me what color the {form} is?", color),
    )
    for kind, question, answer in questions:
        yield OtherPicture(name, image, kind, question, answer)


def _alone() -> Iterator[OtherPicture]:
    """One form on a plain ground, of several sizes of pictures."""
    for i, color in enumerate(COLORS):
        form = FORMS[(i * 5 + i // 6) % len(FORMS)]
        side = (64, 112, 224, 300)[i % 4]
        ground = "white" if i % 3 else "black"
        if color in ("black", "pink") and ground == ("black" if color == "black" else "white"):
            ground = "white" if color == "black" else "black"
        image = Image.new("RGB", (side, side), GROUNDS[ground])
        margin = side * (4 + i % 3) // 16
        _draw_form(ImageDraw.Draw(image), form, (margin, margin, side - margin, side - margin), COLORS[color])
        yield from _ask_alone(f"{color} {form} on {ground}, {side}", image, form, color)


def _several() -> Iterator[OtherPicture]:
    """Two to four forms in the corners."""
    corners = {
        "top left": (0.08, 0.08),
        "top right": (0.62, 0.08),
        "bottom left": (0.08, 0.62),
        "bottom right": (0.62, 0.62),
    }
    names = list(COLORS)
    for i in range(12):
        side, ground = (112, 200, 64, 256)[i % 4], ("white", "light", "beige")[i % 3]
        image = Image.new("RGB", (side, side), GROUNDS[ground])
        draw = ImageDraw.Draw(image)
        placed: list[tuple[str, str, str]] = []
        for j, (corner, (x, y)) in enumerate(list(corners.items())[: 2 + i % 3]):
            color, form = names[(i + 3 * j) % len(names)], FORMS[(i + j) % len(FORMS)]
            color = "red" if color == "pink" else color
            if any(color == c for c, _, _ in placed):
                color = "black"
            box = (int(x * side), int(y * side), int((x + 0.3) * side), int((y + 0.3) * side))
            _draw_form(draw, form, box, COLORS[color])
            placed.append((color, form, corner))
        color, form, corner = placed[i % len(placed)]
        name = f"{', '.join(f'{c} {f}' for c, f, _ in placed)} on {ground}, {side}"
        absent = next(f for f in FORMS if all(f != g for _, g, _ in placed))
        questions = (
            ("count", "How many objects are there?", str(len(placed))),
            ("color", f"What color is the {form}?", color),
            ("shape", f"Which shape is {color}?", form),
            ("position", f"Where is the {color} {form}?", corner),
            ("yes", f"Does the image contain a {color} {form}?", "yes"),
            ("no", f"Can you see a {absent}?", "no"),
            ("negation", f"Does the image not contain a {absent}?", "yes"),
            ("foreign", "Is there a dog?", "no"),
            ("list", "What shapes are present?", " ".join(f for _, f, _ in placed)),
            ("describe", "Describe the image.", " ".join(f"{c} {f}" for c, f, _ in placed)),
        )
        for kind, question, answer in questions:
            yield OtherPicture(name, image, kind, question, answer)


def draw_other_pictures() -> Iterator[OtherPicture]:
    """Draw them all, each with its questions."""
    yield from _alone()
    yield from _several()
