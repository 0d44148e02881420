"""Answers questions from the scene's objects and the question's words alone.

Written apart from `lookonce_scenes.questions`, which it is held against: it parses the English text, and does its own
geometry.
"""

import re
from collections.abc import Callable

from lookonce_scenes.world import IMAGE_SIZE, Scene, SceneObject

COLORS = (
    "red", "orange", "yellow", "green", "blue", "purple", "black", "gray", "white", "brown", "teal", "cyan", "pink",
)  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "rectangle", "oval")
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


def phrase(o: SceneObject) -> str:
    """The object with its size, colour and form."""
    outlined = "outlined " if o.line > 0 else ""
    return f"a {o.size} {o.color} {outlined}{o.kind}"


def said(o: SceneObject) -> str:
    """The object as descriptions name it."""
    return f"{phrase(o)} at the {place(o)}"


def those(scene: Scene, noun: str) -> list[SceneObject]:
    """The objects that a noun names: "red circle", "circles", "red objects", "object at the top left"."""
    noun, _, where = noun.partition(" at the ")
    found = [o for o in scene.objects if not where or place(o) == where]
    for word in noun.split():
        one = word if word in COLORS else word.rstrip("s")
        if one in COLORS:
            found = [o for o in found if o.color == one]
        elif one in ("small", "large"):
            found = [o for o in found if o.size == one]
        elif one in ("outlined", "filled"):
            found = [o for o in found if (o.line > 0) == (one == "outlined")]
        elif one in ("shape", "digit"):
            found = [o for o in found if o.kind.isdigit() == (one == "digit")]
        elif one not in ("object", "thing", "it", "thi"):
            found = [o for o in found if o.kind == one]  # none where no scene shows such a thing
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
    o = _the(those(scene, noun))
    coordinate = o.x if half in ("left", "right") else o.y
    return _yes((coordinate < IMAGE_SIZE / 2) == (half in ("left", "top")))


def _what_is_at(scene: Scene, region: str) -> str:
    there = _at(scene, region)
    return phrase(_the(there)) if there else "nothing"


def _find(scene: Scene, noun: str) -> str:
    return ", ".join(said(o) for o in those(scene, noun)) or "nothing"


_THING = r"(.+?)(?: in the (?:image|picture)| here)?"
_X = r"(?:the )?(.+?)"
_SHOWN = r"(?:contain|show|have)"
_COLOR = "|".join(COLORS)
_ONE = "it|this|the object|the shape"


def _compare(scene: Scene, how: str, one: str, other: str) -> str:
    first, second = len(those(scene, one)), len(those(scene, other))
    return _yes({"more": first > second, "fewer": first < second, "as many": first == second}[how])


def _total(scene: Scene, how: str, number: str) -> str:
    count, n = len(scene.objects), NUMBERS.index(number)
    return _yes({"": count == n, "at least ": count >= n, "more than ": count > n, "fewer than ": count < n}[how])


def _is_it(scene: Scene, noun: str, negated: str, value: str) -> str:
    """Whether the thing is of a colour or kind; "it" is the only one there is."""
    noun = noun.removeprefix("the ")
    o = _the(those(scene, "object" if noun == "shape" else noun))
    value = re.sub("^an? ", "", value).removesuffix(" or not")
    return _yes((value in (o.color, o.kind)) != bool(negated))


def _values(attribute: str) -> Callable[[Scene], str]:
    return lambda scene: ", ".join(dict.fromkeys(getattr(o, attribute) for o in scene.objects))


def _of(attribute: str) -> Callable[..., str]:
    def answer(scene: Scene, noun: str = "object") -> str:
        o = _the(those(scene, "object" if noun in ("it", "this", "its", "shape") else noun))
        return place(o) if attribute == "place" else str(getattr(o, attribute))

    return answer


def _fill(scene: Scene, noun: str) -> str:
    return "outlined" if _the(those(scene, noun)).line > 0 else "filled"


def _which(scene: Scene, value: str) -> str:
    where = value.removeprefix("at the ")
    return _the([o for o in scene.objects if value in (o.color, o.size) or place(o) == where]).kind


def _any(scene: Scene, noun: str) -> str:
    return _yes(bool(those(scene, noun)))


def _none(scene: Scene, noun: str) -> str:
    return _yes(not those(scene, noun))


def _count(scene: Scene, noun: str) -> str:
    return str(len(those(scene, noun)))


_FORMS: list[tuple[str, Callable[..., str]]] = [
    # yes or no
    (rf"(?:is|are) there exactly (\w+) {_THING}", lambda s, n, noun: _yes(len(those(s, noun)) == NUMBERS.index(n))),
    (r"is there an? (\w+) at the (.+)", lambda s, kind, r: _yes(any(o.kind == kind for o in _at(s, r)))),
    (r"are there (more|fewer|as many) (.+) (?:than|as) (\D+s)", _compare),
    (r"is there more than one (.+)", lambda s, noun: _yes(len(those(s, noun)) > 1)),
    (r"is there only one object", lambda s: _yes(len(s.objects) == 1)),
    (r"are there several objects", lambda s: _yes(len(s.objects) > 1)),
    (r"(?:is|are) there (at least |more than |fewer than |)(one|two|three|four) objects?", _total),
    (rf"(?:is|are) there no {_THING}|is no (.+) visible", lambda s, a, b: _none(s, a or b)),
    (rf"does the (?:image|picture) not {_SHOWN} an? (.+)|is the image without an? (.+)",
     lambda s, a, b: _none(s, a or b)),
    (r"(?:is the digit an?|does the image show the digit) (\d)", lambda s, d: _yes(_digits(s) == [d])),
    (rf"does the (?:image|picture) {_SHOWN} an? (.+)|is an? (.+) (?:present|visible)", lambda s, a, b: _any(s, a or b)),
    (rf"(?:is there|do you see|can you see) (?:an?|any) {_THING}", _any),
    (rf"(?:are there any|any|are there) {_THING}", _any),
    (r"is the (.+) in the (\w+) half of the image", _in_half),
    (rf"is ({_ONE}) (not |)({_COLOR}|an? \w+(?: or not)?)", _is_it),
    (rf"is the (.+) (not )({_COLOR}|an? \w+)", _is_it),
    (rf"is the (.+?) ()({_COLOR}|an? \w+)", _is_it),
    (r"is the (.+) (small or large|large or small)", lambda s, noun, _: _of("size")(s, noun)),
    (r"is the (.+) filled or outlined", _fill),
    (r"is the (.+) (filled|outlined)", lambda s, noun, value: _yes(_fill(s, noun) == value)),
    (r"is the (.+) (small|large)", lambda s, noun, size: _yes(_the(those(s, noun)).size == size)),
    (r"is the (.+) at the (.+)", lambda s, noun, r: _yes(place(_the(those(s, noun))) == r)),
    # how many
    (r"how many more (.+) (?:than (.+) are there|are there than (.+))",
     lambda s, one, a, b: str(len(those(s, one)) - len(those(s, a or b)))),
    (r"how many (.+?) (?:are (?:there|in the image|in the picture|shown|visible)|do you see|can you see"
     r"|does the image show)", _count),
    (r"(?:how many|count the|what is the number of|number of) (.+)", _count),
    # what
    (r"(?:which|what) digit (?:is shown|is in the image|do you see)", lambda s: "".join(_digits(s)) or "none"),
    (r"what color is the background|which color does the background have|background color",
     lambda s: s.style.ground_name),
    (r"(?:what|which) colors (?:are present|are in the image|do you see|do the objects have)"
     r"|name the colors|list the colors of the objects", _values("color")),
    (r"(?:what|which) shapes? (?:are|is) (?:present|there|in the image|shown)|(?:what|which) shapes? (?:do|can) you see"
     r"|(?:name|list) the shapes", _values("kind")),
    (r"what is the color|what color|colou?r", _of("color")),
    (r"what is the shape|shape", _of("kind")),
    (rf"(?:(?:what|which) (?:colou?r is|color does)|(?:what is |name |tell me |)(?:the )?color of) {_X}(?: have)?",
     _of("color")),
    (r"what is (its) color", _of("color")),
    (r"which (?:object|shape) is (small|large|at the .+|(?!it$)\w+)", _which),
    (r"what shape is at the (.+)", lambda s, r: _the(_at(s, r)).kind),
    (rf"(?:(?:what|which) (?:kind of shape is|shape is|shape does)|(?:what is |name |)the shape of) {_X}(?: have)?",
     _of("kind")),
    (r"what is shown(?: in the image)?|which object is in the image|what object is this",
     lambda s: phrase(_the(list(s.objects)))),
    (r"what is at the (.+)", _what_is_at),
    (r"find the (.+)", _find),
    # how large
    (rf"(?:how big is|how large is|what is the size of|size of|what size is|what size does) {_X}(?: have)?",
     _of("size")),
    (r"size|is it large or small", _of("size")),
    # where
    (r"where|position", _of("place")),
    (rf"(?:where is|where in the image is|where can you see|where do you see|what is the position of|position of"
     rf"|in which part of the image is) {_X}(?: located)?", _of("place")),
    (rf"what is {_X}", _of("kind")),
]  # fmt: skip
