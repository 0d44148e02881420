"""Answers questions from the scene's objects and the question's words alone.

Written apart from `lookonce_scenes.questions`, which it is held against: it parses the English text, and does its own
geometry.
"""

import re
from collections.abc import Callable

from lookonce_scenes.world import COLORS, IMAGE_SIZE, KINDS, Scene, SceneObject

NUMBERS = ("zero", "one", "two", "three", "four")
ROWS = ("top", "center", "bottom")
COLUMNS = ("left", "center", "right")


class AmbiguousError(Exception):
    """The question speaks of "the" thing where there is none of it, or several."""


def answer_to(scene: Scene, text: str) -> str:
    """The right answer, however the question was typed."""
    typed = text.lower().rstrip("?.")
    for pattern, answer in _FORMS:
        if found := re.fullmatch(pattern, typed):
            return answer(scene, *found.groups())
    raise AssertionError(f"no form fits {text!r}")


def place(o: SceneObject) -> str:
    """The ninth of the picture that an object's centre lies in."""
    row, column = (places[int(c * 3 / IMAGE_SIZE)] for places, c in ((ROWS, o.y), (COLUMNS, o.x)))
    return "center" if row == column == "center" else f"{row} {column}"


def said(o: SceneObject) -> str:
    """The object as descriptions name it."""
    return f"a {o.size} {o.color} {o.kind} at the {place(o)}"


def _those(scene: Scene, noun: str) -> list[SceneObject]:
    """The objects that a noun names: "red circle", "circles", "red objects", "object"."""
    found = list(scene.objects)
    for word in noun.split():
        if word in COLORS:
            found = [o for o in found if o.color == word]
        elif word.rstrip("s") in KINDS:
            found = [o for o in found if o.kind == word.rstrip("s")]
        else:
            assert word in ("object", "objects"), word
    return found


def _the(found: list[SceneObject]) -> SceneObject:
    if len(found) != 1:
        raise AmbiguousError(f"{len(found)} objects fit")
    return found[0]


def _at(scene: Scene, region: str) -> list[SceneObject]:
    return [o for o in scene.objects if place(o) == region]


def _yes(truth: bool) -> str:
    return "Yes" if truth else "No"


def _digits(scene: Scene) -> list[str]:
    return [o.kind for o in scene.objects if o.kind.isdigit()]


def _in_half(scene: Scene, noun: str, half: str) -> str:
    o = _the(_those(scene, noun))
    coordinate = o.x if half in ("left", "right") else o.y
    return _yes((coordinate < IMAGE_SIZE / 2) == (half in ("left", "top")))


def _what_is_at(scene: Scene, region: str) -> str:
    there = _at(scene, region)
    return f"a {_the(there).phrase}" if there else "nothing"


def _find(scene: Scene, noun: str) -> str:
    return ", ".join(said(o) for o in _those(scene, noun)) or "nothing"


_THING = r"(.+?)(?: in the image)?"
_FORMS: list[tuple[str, Callable[..., str]]] = [
    (rf"(?:is|are) there exactly (\w+) {_THING}", lambda s, n, noun: _yes(len(_those(s, noun)) == NUMBERS.index(n))),
    (r"is there an? (\w+) at the (.+)", lambda s, kind, r: _yes(any(o.kind == kind for o in _at(s, r)))),
    (rf"(?:is there|do you see) an? {_THING}", lambda s, noun: _yes(bool(_those(s, noun)))),
    (r"(?:is the digit an?|does the image show the digit) (\d)", lambda s, d: _yes(_digits(s) == [d])),
    (r"is the (\w+ object) an? (\w+)", lambda s, noun, kind: _yes(_the(_those(s, noun)).kind == kind)),
    (r"is the (.+) in the (\w+) half of the image", _in_half),
    (r"is the (.+) at the (.+)", lambda s, noun, r: _yes(place(_the(_those(s, noun))) == r)),
    (r"is the (.+) (small|large)", lambda s, noun, size: _yes(_the(_those(s, noun)).size == size)),
    (r"is the (\w+) (\w+)", lambda s, noun, color: _yes(_the(_those(s, noun)).color == color)),
    (r"how many (.+) are (?:there|in the image)", lambda s, noun: str(len(_those(s, noun)))),
    (r"where (?:in the image )?is the (.+)", lambda s, noun: place(_the(_those(s, noun)))),
    (r"(?:what|which) color is the object at the (.+)", lambda s, r: _the(_at(s, r)).color),
    (r"(?:what|which) color is the (.+)", lambda s, noun: _the(_those(s, noun)).color),
    (r"what shape is at the (.+)", lambda s, r: _the(_at(s, r)).kind),
    (r"what is at the (.+)", _what_is_at),
    (r"what (?:shape )?is the (.+)", lambda s, noun: _the(_those(s, noun)).kind),
    (r"(?:what size|how large) is the (.+)", lambda s, noun: _the(_those(s, noun)).size),
    (r"(?:which|what) digit (?:is shown|is in the image|do you see)", lambda s: "".join(_digits(s)) or "none"),
    (r"find the (.+)", _find),
]
