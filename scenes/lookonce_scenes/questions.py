"""Questions about a scene, open ones and yes/no pairs, with exact answers.

The pairs are in MME's form.

MME (Fu et al., arXiv 2306.13394) asks two questions an image and category, one whose answer is yes and one whose
answer is no; ACC counts questions, ACC+ counts images with both right.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from lookonce_scenes.world import DIGITS, REGIONS, SIZES, Scene, SceneObject

CATEGORIES = ("existence", "count", "position", "color", "shape", "size", "digit")
DESCRIBE_PROMPTS = ("Describe the image.", "What do you see?", "List the objects.", "What is in the image?")
NUMBERS = ("zero", "one", "two", "three", "four", "five")


class Question(NamedTuple):
    """A question and its only right answer."""

    category: str  # one of CATEGORIES, or "find" (a training exercise)
    text: str
    answer: str


Asker = Callable[[Scene, random.Random], Question | None]


def _choice(rng: random.Random, *texts: str) -> str:
    return rng.choice(texts)


def _shapes(scene: Scene) -> list[SceneObject]:
    return [o for o in scene.objects if o.kind not in DIGITS]


def _unique(scene: Scene, attribute: str) -> list[SceneObject]:
    """Return the objects that no other one equals in that attribute."""
    values = [getattr(o, attribute) for o in scene.objects]
    return [o for o in scene.objects if values.count(getattr(o, attribute)) == 1]


def yes_or_no(flag: bool) -> str:
    """Return the answer to a yes/no question."""
    return "Yes" if flag else "No"


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun."""
    return f"{'an' if noun[0] in 'aeiou8' else 'a'} {noun}"


# --- yes/no questions: each takes the wanted answer, and gives None when the scene allows no such question
# -----------------


def ask_existence(scene: Scene, rng: random.Random, yes: bool) -> Question | None:
    """Ask for existence: `Is there a red circle?`.

    A no often names a colour and a kind that are both there, but not together."""
    pairs = {(o.kind, o.color) for o in scene.objects}
    kinds = {o.kind for o in scene.objects}
    colors = {o.color for o in scene.objects}
    form = rng.random()
    if form < 0.2:
        fitting = [k for k in scene.world.shapes if (k in kinds) == yes]
        noun = rng.choice(fitting) if fitting else ""
    elif form < 0.4:
        fitting = [c for c in scene.world.colors if (c in colors) == yes]
        noun = f"{rng.choice(fitting)} object" if fitting else ""
    elif yes:
        fitting = [f"{o.color} {o.kind}" for o in _shapes(scene)]
        noun = rng.choice(fitting) if fitting else ""
    else:
        noun = _absent_pair(scene, rng, pairs)
    if not noun:
        return None
    thing = with_article(noun)
    text = _choice(rng, f"Is there {thing}?", f"Is there {thing} in the image?", f"Do you see {thing}?")
    return Question("existence", text, yes_or_no(yes))


def _absent_pair(scene: Scene, rng: random.Random, pairs: set[tuple[str, str]]) -> str:
    kinds = [o.kind for o in _shapes(scene)] or list(scene.world.shapes)
    colors = [o.color for o in scene.objects]
    for _ in range(10):
        kind = rng.choice(kinds if rng.random() < 0.7 else scene.world.shapes)
        color = rng.choice(colors if rng.random() < 0.7 else scene.world.colors)
        if (kind, color) not in pairs:
            return f"{color} {kind}"
    return ""


def _counted(scene: Scene, rng: random.Random) -> tuple[str, str, int]:
    """Something to count: its singular, its plural, and how many of it there are."""
    form = rng.random()
    if form < 0.4:
        return "object", "objects", len(scene.objects)
    if form < 0.7:
        present = [o.kind for o in _shapes(scene)]
        kind = rng.choice(present) if present and rng.random() < 0.7 else rng.choice(scene.world.shapes)
        return kind, f"{kind}s", sum(o.kind == kind for o in scene.objects)
    color = rng.choice([o.color for o in scene.objects]) if rng.random() < 0.7 else rng.choice(scene.world.colors)
    return f"{color} object", f"{color} objects", sum(o.color == color for o in scene.objects)


def ask_count(scene: Scene, rng: random.Random, yes: bool) -> Question | None:
    """Are there two circles?"""
    one, many, count = _counted(scene, rng)
    number = count if yes else rng.choice([n for n in range(1, 5) if n != count])
    if number == 0:
        return None
    noun = one if number == 1 else many
    verb = "Is" if number == 1 else "Are"
    tail = rng.choice(("", " in the image"))
    return Question("count", f"{verb} there exactly {NUMBERS[number]} {noun}{tail}?", yes_or_no(yes))


def ask_position(scene: Scene, rng: random.Random, yes: bool) -> Question | None:
    """Ask for a place: `Is the red circle at the top left?`.

    Or, more coarsely: in the left half, in the bottom half."""
    o = rng.choice(scene.objects)
    if rng.random() < 0.5:
        column, row = o.region % 3, o.region // 3
        sides = [(column, "left", "right"), (row, "top", "bottom")]
        place, low, high = rng.choice(sides)
        if place == 1:
            return None
        named = (low if place == 0 else high) if yes else (high if place == 0 else low)
        return Question("position", f"Is the {o.color} {o.kind} in the {named} half of the image?", yes_or_no(yes))
    region = o.region
    if not yes:
        others = [p.region for p in scene.objects if p.region != o.region]
        wrong = [r for r in range(9) if r != o.region]
        region = rng.choice(others) if others and rng.random() < 0.5 else rng.choice(wrong)
    place_name = REGIONS[region]
    if rng.random() < 0.7:
        return Question("position", f"Is the {o.color} {o.kind} at the {place_name}?", yes_or_no(yes))
    truth = any(p.kind == o.kind and p.region == region for p in scene.objects)
    return Question("position", f"Is there {with_article(o.kind)} at the {place_name}?", yes_or_no(truth))


def ask_color(scene: Scene, rng: random.Random, yes: bool) -> Question | None:
    """Is the square red?"""
    fitting = [o for o in _unique(scene, "kind") if o.kind not in DIGITS]
    if not fitting:
        return None
    o = rng.choice(fitting)
    color = o.color if yes else _other(rng, o.color, [p.color for p in scene.objects], scene.world.colors)
    return Question("color", f"Is the {o.kind} {color}?", yes_or_no(yes))


def ask_shape(scene: Scene, rng: random.Random, yes: bool) -> Question | None:
    """Is the red object a circle?"""
    fitting = [o for o in _unique(scene, "color") if o.kind not in DIGITS]
    if not fitting:
        return None
    o = rng.choice(fitting)
    kind = o.kind if yes else _other(rng, o.kind, [p.kind for p in _shapes(scene)], scene.world.shapes)
    return Question("shape", f"Is the {o.color} object {with_article(kind)}?", yes_or_no(yes))


def ask_size(scene: Scene, rng: random.Random, yes: bool) -> Question | None:
    """Is the red circle large?"""
    shapes = _shapes(scene)
    if not shapes:
        return None
    o = rng.choice(shapes)
    size = o.size if yes else SIZES[1 - SIZES.index(o.size)]
    return Question("size", f"Is the {o.color} {o.kind} {size}?", yes_or_no(yes))


def ask_digit(scene: Scene, rng: random.Random, yes: bool) -> Question | None:
    """Is the digit a 7? Only about scenes that show one."""
    shown = [o.kind for o in scene.objects if o.kind in DIGITS]
    if not shown:
        return None
    digit = shown[0] if yes else rng.choice([d for d in DIGITS if d != shown[0]])
    thing = with_article(digit)
    text = _choice(rng, f"Is the digit {thing}?", f"Does the image show the digit {digit}?")
    return Question("digit", text, yes_or_no(yes))


def _other(rng: random.Random, right: str, present: list[str], everything: tuple[str, ...]) -> str:
    """Draw a wrong value, half of the time one of another object of the scene."""
    near = [v for v in present if v != right]
    return rng.choice(near) if near and rng.random() < 0.5 else rng.choice([v for v in everything if v != right])


YES_NO: dict[str, Callable[[Scene, random.Random, bool], Question | None]] = {
    "existence": ask_existence,
    "count": ask_count,
    "position": ask_position,
    "color": ask_color,
    "shape": ask_shape,
    "size": ask_size,
    "digit": ask_digit,
}


def yes_no_pair(scene: Scene, category: str, rng: random.Random) -> tuple[Question, Question] | None:
    """MME's two questions about one image.

    The first's answer is yes, the second's no; None when the scene allows none.

    """
    asker = YES_NO[category]
    found: dict[str, Question] = {}
    for _ in range(20):
        for wanted in (True, False):
            question = asker(scene, rng, wanted)
            if question:
                found.setdefault(question.answer, question)
        if len(found) == 2:
            return found["Yes"], found["No"]
    return None


# --- open questions --------------------------------------------------------------------------------------------------


def open_count(scene: Scene, rng: random.Random) -> Question | None:
    """How many circles are there?"""
    _, many, count = _counted(scene, rng)
    return Question("count", f"How many {many} are {_choice(rng, 'there', 'in the image')}?", str(count))


def open_position(scene: Scene, rng: random.Random) -> Question | None:
    """Ask for a place: `Where is the red circle?`."""
    o = rng.choice(scene.objects)
    text = _choice(rng, f"Where is the {o.color} {o.kind}?", f"Where in the image is the {o.color} {o.kind}?")
    return Question("position", text, REGIONS[o.region])


def open_color(scene: Scene, rng: random.Random) -> Question | None:
    """Ask for a color: `What color is the square?`."""
    by_kind = [o for o in _unique(scene, "kind") if o.kind not in DIGITS]
    by_region = _unique(scene, "region")
    if by_kind and rng.random() < 0.6:
        o = rng.choice(by_kind)
        named = o.kind
    elif by_region:
        o = rng.choice(by_region)
        named = f"object at the {REGIONS[o.region]}"
    else:
        return None
    return Question("color", _choice(rng, f"What color is the {named}?", f"Which color is the {named}?"), o.color)


def open_shape(scene: Scene, rng: random.Random) -> Question | None:
    """Ask for a shape: `What shape is the red object?`."""
    by_color = _unique(scene, "color")
    by_region = _unique(scene, "region")
    if by_color and rng.random() < 0.6:
        o = rng.choice(by_color)
        text = _choice(rng, f"What is the {o.color} object?", f"What shape is the {o.color} object?")
    elif by_region:
        o = rng.choice(by_region)
        text = f"What shape is at the {REGIONS[o.region]}?"
    else:
        return None
    return Question("shape", text, o.kind)


def open_size(scene: Scene, rng: random.Random) -> Question | None:
    """Ask for a size: `What size is the red circle?`."""
    shapes = _shapes(scene)
    if not shapes:
        return None
    o = rng.choice(shapes)
    text = _choice(rng, f"What size is the {o.color} {o.kind}?", f"How large is the {o.color} {o.kind}?")
    return Question("size", text, o.size)


def open_digit(scene: Scene, rng: random.Random) -> Question | None:
    """Ask for a digit: `Which digit is shown?`."""
    shown = [o.kind for o in scene.objects if o.kind in DIGITS]
    if not shown and rng.random() < 0.7:
        return None
    text = _choice(rng, "Which digit is shown?", "Which digit is in the image?", "What digit do you see?")
    return Question("digit", text, shown[0] if shown else "none")


def open_existence(scene: Scene, rng: random.Random) -> Question | None:
    """Ask for an object: `What is at the top left?`."""
    occupied: dict[int, list[SceneObject]] = {}
    for o in scene.objects:
        occupied.setdefault(o.region, []).append(o)
    region = rng.choice(list(occupied)) if rng.random() < 0.75 else rng.randrange(9)
    there = occupied.get(region, [])
    if len(there) > 1:
        return None
    return Question("existence", f"What is at the {REGIONS[region]}?", f"a {there[0].phrase}" if there else "nothing")


OPEN: dict[str, Asker] = {
    "existence": open_existence,
    "count": open_count,
    "position": open_position,
    "color": open_color,
    "shape": open_shape,
    "size": open_size,
    "digit": open_digit,
}


def find_objects(scene: Scene, rng: random.Random) -> Question | None:
    """Find the red object.

    A training exercise: its long answers teach look-up by content, where one word alone does not.

    """
    o = rng.choice(scene.objects)
    present = rng.random() < 0.8
    color = o.color if present else rng.choice(scene.world.colors)
    form = rng.random()
    if form < 0.45:
        kind = o.kind if present and o.kind not in DIGITS else rng.choice(scene.world.shapes)
        noun, hits = kind, [p for p in scene.objects if p.kind == kind]
    elif form < 0.8:
        noun, hits = f"{color} object", [p for p in scene.objects if p.color == color]
    else:
        noun, hits = f"{color} {o.kind}", [p for p in scene.objects if (p.kind, p.color) == (o.kind, color)]
    answer = ", ".join(f"a {p.phrase} at the {REGIONS[p.region]}" for p in hits) or "nothing"
    return Question("find", f"Find the {noun}.", answer)
