"""Ask about a scene in the many words that people use, with exact answers.

`questions` asks in MME's form; this module asks of any world in other words, in the negative, after things that no
scene shows, and after lists. Each yes/no asker takes the wanted answer, so that every phrasing is balanced.
"""

import random
import re
from collections.abc import Callable, Sequence

from lookonce_scenes.questions import NUMBERS, OPEN, YES_NO, Asker, Question, find_objects, with_article, yes_or_no
from lookonce_scenes.world import DIGITS, REGIONS, SIZES, Scene, SceneObject

FOREIGN_WORDS = tuple(
    "cat dog car person tree house man woman child bird fish horse cow flower boat ship train bus bicycle plane "
    "airplane chair table bed book phone computer cup bottle apple banana pizza cake ball hat shoe shirt door window "
    "road river mountain cloud sun moon street sign clock bag umbrella truck motorcycle sheep elephant bear mouse "
    "rabbit face hand eye logo building bridge garden leaf spoon fork knife cross arrow heart hexagon pentagon cube "
    "moustache letter word robot guitar lamp mirror box pencil key".split()
)
"""Things that no scene shows."""

YesNoAsker = Callable[[Scene, random.Random, bool], Question | None]

_THERE = (
    "Is there {a}?", "Is there {a} in the picture?", "Do you see {a}?", "Can you see {a}?",
    "Does the image contain {a}?", "Does the picture show {a}?", "Is {a} present?", "Is {a} visible?",
    "Are there any {many}?", "Is there any {one}?", "Does the image have {a}?", "Is there {a} here?",
    "Any {many}?", "Are there {many} in the image?", "Does the image show {a}?",
)  # fmt: skip
_NOT_THERE = (
    "Is there no {one}?", "Is there no {one} in the image?", "Does the image not contain {a}?", "Are there no {many}?",
    "Does the picture not show {a}?", "Is the image without {a}?", "Is no {one} visible?",
)  # fmt: skip
_COLOR_OF = (
    "What color is the {x}?", "What colour is the {x}?", "Which color does the {x} have?", "Color of the {x}?",
    "What is the color of the {x}?", "Name the color of the {x}.", "Tell me the color of the {x}.",
    "What color does the {x} have?",
)  # fmt: skip
_PLACE_OF = (
    "Where is the {x}?", "Where is the {x} located?", "What is the position of the {x}?", "Position of the {x}?",
    "In which part of the image is the {x}?", "Where can you see the {x}?", "Where do you see the {x}?",
)  # fmt: skip
_SIZE_OF = (
    "How big is the {x}?", "What is the size of the {x}?", "Is the {x} small or large?", "Is the {x} large or small?",
    "What size does the {x} have?", "Size of the {x}?",
)  # fmt: skip
_SHAPE_OF = (
    "What is the shape of the {x}?", "What kind of shape is the {x}?", "Which shape does the {x} have?",
    "Name the shape of the {x}.", "What is the {x}?",
)  # fmt: skip
_COUNT_OF = (
    "How many {many} are there?", "How many {many} are in the picture?", "How many {many}?", "Count the {many}.",
    "How many {many} do you see?", "What is the number of {many}?", "Number of {many}?", "How many {many} can you see?",
    "How many {many} does the image show?", "How many {many} are shown?", "How many {many} are visible?",
)  # fmt: skip
_SHAPES_SHOWN = (
    "What shapes are present?", "What shape is present?", "Which shapes are in the image?", "Name the shapes.",
    "What shapes do you see?", "Which shapes are there?", "What shapes are there?", "Which shape is in the image?",
    "List the shapes.", "What shape do you see?", "What shape is in the image?", "What shape is shown?",
)  # fmt: skip
_COLORS_SHOWN = (
    "What colors are present?", "Which colors are in the image?", "Name the colors.", "What colors do you see?",
    "Which colors do the objects have?", "What colors do the objects have?", "List the colors of the objects.",
)  # fmt: skip
# Of a scene's one object.
_SINGLE_SHAPE = (
    "What shape is this?", "What shape is it?", "Shape?", "Which shape is it?", "What is the shape?", "What is it?",
    "What is this?", "What shape is the object?", "What kind of shape is this?", "Which shape do you see?",
    "What is the shape of the object?", "Which shape is present?", "What shape can you see?",
)  # fmt: skip
_SINGLE_COLOR = (
    "What color is it?", "Color?", "Colour?", "What color is the object?", "What color is the shape?",
    "What color is this?", "What is the color of the shape?", "Which color is it?", "What is its color?",
    "What colour is the object?", "What is the color?", "What color?", "Which color does the shape have?",
)  # fmt: skip
_SINGLE_PLACE = ("Where is it?", "Where?", "Position?", "Where is the object?", "Where is the shape?")
_SINGLE_SIZE = ("How large is it?", "Size?", "Is it large or small?", "How big is the object?", "What size is it?")
_SINGLE_ALL = ("What is shown?", "What is shown in the image?", "Which object is in the image?", "What object is this?")
_IS_IT = {
    "color": ("Is it {v}?", "Is the object {v}?", "Is the shape {v}?", "Is this {v}?"),
    "kind": ("Is it {a}?", "Is this {a}?", "Is the object {a}?", "Is the shape {a}?", "Is it {a} or not?"),
    "not color": ("Is it not {v}?", "Is the object not {v}?", "Is the shape not {v}?"),
    "not kind": ("Is it not {a}?", "Is the object not {a}?", "Is this not {a}?"),
}


def _fill(rng: random.Random, forms: Sequence[str], noun: str, value: str = "") -> str:
    return rng.choice(forms).format(a=with_article(noun), one=noun, many=f"{noun}s", x=noun, v=value)


def matching(scene: Scene, noun: str) -> list[SceneObject]:
    """Return the objects that a noun such as "red circle" or "large object" names."""
    found = list(scene.objects)
    for word in noun.split():
        if word in scene.world.colors:
            found = [o for o in found if o.color == word]
        elif word in SIZES:
            found = [o for o in found if o.size == word]
        elif word in ("outlined", "filled"):
            found = [o for o in found if (o.line > 0) == (word == "outlined")]
        elif word == "shape":
            found = [o for o in found if o.kind not in DIGITS]
        elif word == "digit":
            found = [o for o in found if o.kind in DIGITS]
        elif word != "object":
            found = [o for o in found if o.kind == word]
    return found


def _draw_noun(scene: Scene, rng: random.Random) -> str:
    """Draw a noun that may name something of the scene, often one of its own words."""
    o, other = rng.choice(scene.objects), rng.choice(scene.objects)
    kind = o.kind if o.kind not in DIGITS and rng.random() < 0.6 else rng.choice(scene.world.shapes)
    color = other.color if rng.random() < 0.6 else rng.choice(scene.world.colors)
    forms = (
        kind,
        kind,
        f"{color} {kind}",
        f"{color} {kind}",
        f"{color} object",
        f"{other.size} {kind}",
        f"{color} shape",
        f"outlined {kind}",
        "digit",
    )
    weights = (3, 3, 3, 3, 2, 1, 1, 0.4 if scene.world.is_varied else 0, 0.4)
    return rng.choices(forms, weights)[0]


def noun_for(scene: Scene, rng: random.Random, there: bool) -> str | None:
    """Draw a noun of which there is something, or nothing, in the scene."""
    if not there and rng.random() < 0.2:
        return rng.choice(FOREIGN_WORDS)
    for _ in range(12):
        noun = _draw_noun(scene, rng)
        if bool(matching(scene, noun)) == there:
            return noun
    return None


def noun_of_one(scene: Scene, rng: random.Random, *, hides: str = "") -> tuple[str, SceneObject] | None:
    """Draw a noun that names exactly one object, with it.

    Args:
        scene: shows it.
        rng: decides.
        hides: an attribute that the noun must not tell: "color", "kind", "size", "region".

    """
    o = rng.choice(scene.objects)
    nouns = {
        o.kind: "kind",
        f"{o.color} object": "color",
        f"{o.color} {o.kind}": "color kind",
        f"{o.size} {o.kind}": "size kind",
        f"{o.size} object": "size",
        f"{o.size} {o.color} {o.kind}": "size color kind",
        f"{o.color} shape": "color",
    }
    fitting = [n for n, told in nouns.items() if hides not in told.split() and matching(scene, n) == [o]]
    if o.kind in DIGITS:
        fitting = [n for n in fitting if "shape" not in n]
    placed = [p for p in scene.objects if p.region == o.region]
    if hides != "region" and len(placed) == 1 and (rng.random() < 0.25 or not fitting):
        return f"object at the {REGIONS[o.region]}", o
    return (rng.choice(fitting), o) if fitting else None


# --- yes/no ----------------------------------------------------------------------------------------------------------


def ask_presence(scene: Scene, rng: random.Random, yes: bool) -> Question | None:
    """Ask whether it is there: `Does the image contain a circle?`."""
    noun = noun_for(scene, rng, yes)
    return Question("existence", _fill(rng, _THERE, noun), yes_or_no(yes)) if noun else None


def ask_absence(scene: Scene, rng: random.Random, yes: bool) -> Question | None:
    """Is there no circle?"""
    noun = noun_for(scene, rng, not yes)
    return Question("negation", _fill(rng, _NOT_THERE, noun), yes_or_no(yes)) if noun else None


def ask_attribute(scene: Scene, rng: random.Random, yes: bool) -> Question | None:
    """Is the circle not red?"""
    attribute = rng.choice(("color", "kind"))
    drawn = noun_of_one(scene, rng, hides=attribute)
    if not drawn or (attribute == "kind" and drawn[1].kind in DIGITS):
        return None
    noun, o = drawn
    negated = rng.random() < 0.5
    value = _value(scene, rng, attribute, o, right=yes != negated)
    said = with_article(value) if attribute == "kind" else value
    return Question(
        "negation" if negated else attribute.replace("kind", "shape"),
        f"Is the {noun} {'not ' if negated else ''}{said}?",
        yes_or_no(yes),
    )


def _value(scene: Scene, rng: random.Random, attribute: str, o: SceneObject, *, right: bool) -> str:
    """Draw the object's colour or kind, or a wrong one, half of the time another object's."""
    own: str = getattr(o, attribute)
    if right:
        return own
    everything = scene.world.colors if attribute == "color" else scene.world.shapes
    shown: list[str] = [getattr(p, attribute) for p in scene.objects]
    near = [v for v in shown if v != own and v in everything]
    if near and rng.random() < 0.5:
        return rng.choice(near)
    return rng.choice([v for v in everything if v != own])


def ask_single(scene: Scene, rng: random.Random, yes: bool) -> Question | None:
    """Is it red? Only of a scene of one object."""
    if len(scene.objects) != 1:
        return None
    o = scene.objects[0]
    attribute = rng.choice(("color", "kind"))
    if attribute == "kind" and o.kind in DIGITS:
        return None
    negated = rng.random() < 0.3
    value = _value(scene, rng, attribute, o, right=yes != negated)
    if attribute == "kind" and yes == negated and rng.random() < 0.2:
        value = rng.choice(FOREIGN_WORDS)
    text = _fill(rng, _IS_IT[f"{'not ' if negated else ''}{attribute}"], value, value)
    return Question("negation" if negated else attribute.replace("kind", "shape"), text, yes_or_no(yes))


def ask_number(scene: Scene, rng: random.Random, yes: bool) -> Question | None:
    """Is there more than one object? Are there more circles than squares?"""
    form = rng.randrange(8)
    for _ in range(12):
        text, truth = _claim(scene, rng, form)
        if truth == yes:
            return Question("count", text, yes_or_no(yes))
    return None


def _claim(scene: Scene, rng: random.Random, form: int) -> tuple[str, bool]:
    """Draw something to say about numbers, and whether it is true."""
    total, number = len(scene.objects), rng.randint(1, 4)
    things = "object" if number == 1 else "objects"
    if form < 4:
        one = "object" if rng.random() < 0.3 else _draw_noun(scene, rng)
        other = next(noun for _ in range(99) if (noun := _draw_noun(scene, rng)) != one)
        first, second = len(matching(scene, one)), len(matching(scene, other))
        claims = [
            (f"Is there more than one {one}?", first > 1),
            (f"Are there more {one}s than {other}s?", first > second),
            (f"Are there fewer {other}s than {one}s?", first > second),
            (f"Are there as many {one}s as {other}s?", first == second),
        ]
        return claims[form]
    claims = [
        (f"{'Is' if number == 1 else 'Are'} there {NUMBERS[number]} {things}?", total == number),
        (f"Are there at least {NUMBERS[number]} {things}?", total >= number),
        (f"Are there more than {NUMBERS[number]} {things}?", total > number),
        (f"Are there fewer than {NUMBERS[number]} {things}?", total < number),
    ]
    if form == 7 and rng.random() < 0.5:
        claims[3] = rng.choice((("Is there only one object?", total == 1), ("Are there several objects?", total > 1)))
    return claims[form - 4]


def ask_fill(scene: Scene, rng: random.Random, yes: bool) -> Question | None:
    """Is the circle filled? Only in a varied world."""
    drawn = noun_of_one(scene, rng)
    if not scene.world.is_varied or not drawn or drawn[1].kind in DIGITS:
        return None
    noun, o = drawn
    word = "outlined" if (o.line > 0) == yes else "filled"
    return Question("fill", f"Is the {noun} {word}?", yes_or_no(yes))


MORE_YES_NO: dict[str, YesNoAsker] = {
    "presence": ask_presence,
    "absence": ask_absence,
    "attribute": ask_attribute,
    "single": ask_single,
    "number": ask_number,
    "fill": ask_fill,
}


# --- open ------------------------------------------------------------------------------------------------------------


def _open_attribute(
    scene: Scene, rng: random.Random, category: str, attribute: str, forms: Sequence[str]
) -> Question | None:
    drawn = noun_of_one(scene, rng, hides=attribute)
    if not drawn:
        return None
    noun, o = drawn
    answer = REGIONS[o.region] if attribute == "region" else getattr(o, attribute)
    return Question(category, _fill(rng, forms, noun), answer)


def tell_color(scene: Scene, rng: random.Random) -> Question | None:
    """Ask for a color: `What is the color of the circle?`."""
    return _open_attribute(scene, rng, "color", "color", _COLOR_OF)


def tell_place(scene: Scene, rng: random.Random) -> Question | None:
    """Where is the circle located?"""
    return _open_attribute(scene, rng, "position", "region", _PLACE_OF)


def tell_size(scene: Scene, rng: random.Random) -> Question | None:
    """How big is the circle?"""
    return _open_attribute(scene, rng, "size", "size", _SIZE_OF)


def tell_shape(scene: Scene, rng: random.Random) -> Question | None:
    """Ask for a shape: `What is the shape of the red object?`."""
    return _open_attribute(scene, rng, "shape", "kind", _SHAPE_OF)


def tell_count(scene: Scene, rng: random.Random) -> Question:
    """Count the circles."""
    noun = rng.choice(FOREIGN_WORDS) if rng.random() < 0.05 else _draw_noun(scene, rng)
    if rng.random() < 0.4:
        has_digit = any(o.kind in DIGITS for o in scene.objects)
        noun = rng.choice(("object", "thing") if has_digit else ("object", "shape", "thing"))
    hits = scene.objects if noun == "thing" else () if noun in FOREIGN_WORDS else matching(scene, noun)
    return Question("count", _fill(rng, _COUNT_OF, noun), str(len(hits)))


def tell_difference(scene: Scene, rng: random.Random) -> Question | None:
    """How many more circles than squares are there?"""
    one, other = _draw_noun(scene, rng), _draw_noun(scene, rng)
    first, second = len(matching(scene, one)), len(matching(scene, other))
    if first <= second or one == other:
        return None
    text = rng.choice(("How many more {} than {} are there?", "How many more {} are there than {}?"))
    return Question("count", text.format(f"{one}s", f"{other}s"), str(first - second))


def list_values(scene: Scene, rng: random.Random) -> Question | None:
    """Ask for a list: `What shapes are present?`."""
    attribute, forms = rng.choice((("kind", _SHAPES_SHOWN), ("kind", _SHAPES_SHOWN), ("color", _COLORS_SHOWN)))
    if attribute == "kind" and any(o.kind in DIGITS for o in scene.objects):
        return None
    values = dict.fromkeys(getattr(o, attribute) for o in scene.objects)
    return Question("list", rng.choice(forms), ", ".join(values))


def tell_single(scene: Scene, rng: random.Random) -> Question | None:
    """Color? Only of a scene of one object."""
    if len(scene.objects) != 1:
        return None
    o = scene.objects[0]
    choices = [
        ("color", _SINGLE_COLOR, o.color),
        ("position", _SINGLE_PLACE, REGIONS[o.region]),
        ("size", _SINGLE_SIZE, o.size),
        ("existence", _SINGLE_ALL, with_article(o.phrase)),
    ]
    if o.kind not in DIGITS:
        choices += [("shape", _SINGLE_SHAPE, o.kind)] * 2
    category, forms, answer = rng.choice(choices)
    return Question(category, rng.choice(forms), answer)


def tell_which(scene: Scene, rng: random.Random) -> Question | None:
    """Which object is red?"""
    o = rng.choice(scene.objects)
    attribute = rng.choice(("color", "size", "region"))
    if sum(getattr(p, attribute) == getattr(o, attribute) for p in scene.objects) > 1:
        return None
    place = f"at the {REGIONS[o.region]}"
    value = place if attribute == "region" else getattr(o, attribute)
    noun = "object" if o.kind in DIGITS else rng.choice(("object", "shape"))
    return Question("shape", f"Which {noun} is {value}?", o.kind)


def tell_fill(scene: Scene, rng: random.Random) -> Question | None:
    """Is the circle filled or outlined?"""
    drawn = noun_of_one(scene, rng)
    if not scene.world.is_varied or not drawn or drawn[1].kind in DIGITS:
        return None
    answer = "outlined" if drawn[1].line else "filled"
    return Question("fill", f"Is the {drawn[0]} filled or outlined?", answer)


def tell_ground(scene: Scene, rng: random.Random) -> Question | None:
    """Ask for the ground, where it has a name: `What color is the background?`."""
    if not scene.style or not scene.style.ground_name:
        return None
    text = rng.choice(("What color is the background?", "Which color does the background have?", "Background color?"))
    return Question("color", text, scene.style.ground_name)


def describe_again(scene: Scene, rng: random.Random) -> Question:
    """Describe the image. As a later question."""
    return Question("describe", rng.choice(DESCRIBE_AGAIN), scene.caption)


DESCRIBE_AGAIN = ("Describe the image.",) * 3 + ("What do you see?", "List the objects.", "What is in the image?")

MORE_OPEN: dict[str, Asker] = {
    "color": tell_color,
    "position": tell_place,
    "size": tell_size,
    "shape": tell_shape,
    "count": tell_count,
    "difference": tell_difference,
    "list": list_values,
    "single": tell_single,
    "which": tell_which,
    "fill": tell_fill,
    "ground": tell_ground,
}

# The weights under which look-up by content was learned: long "find" answers carry its signal.
_WEIGHTS = {
    "find": 8.0, "yes/no existence": 2.0, "yes/no position": 2.5, "yes/no digit": 0.7, "open digit": 0.7,
    "open count": 1.6, "more open single": 6.0, "more yes/no single": 3.0, "more open list": 1.2,
    "more yes/no presence": 1.6, "more open ground": 0.5, "more open fill": 0.3, "more yes/no fill": 0.3,
    "more open difference": 0.6, "more open count": 1.4,
}  # fmt: skip


def _all_askers() -> dict[str, Asker]:
    def wanted(asker: YesNoAsker) -> Asker:
        return lambda scene, rng: asker(scene, rng, rng.random() < 0.5)

    askers: dict[str, Asker] = {"find": find_objects}
    for prefix, opens, pairs in (("", OPEN, YES_NO), ("more ", MORE_OPEN, MORE_YES_NO)):
        askers |= {f"{prefix}open {name}": asker for name, asker in opens.items()}
        askers |= {f"{prefix}yes/no {name}": wanted(asker) for name, asker in pairs.items()}
    return askers


_ASKERS = _all_askers()
_ASKER_WEIGHTS = [_WEIGHTS.get(name, 1.0) for name in _ASKERS]


# Where a phrasing is mostly true, or mostly not, whatever is wanted: the answer that it gives too often, and the share
# of those that are asked.
_TOO_OFTEN = (
    (r"Is there exactly one .+", "Yes", 0.3),
    (r"Are there exactly two .+", "No", 0.6),
    (r"Are there exactly (?:three|four) .+", "No", 0.32),
    (r"Is there more than one .+", "No", 0.8),
    (r"Are there several objects\?|Are there (?:at least|more than) one object.*", "Yes", 0.35),
    (r"Are there more than (?:two|three) .+", "No", 0.7),
    (r"Are there at least (?:three|four) .+", "No", 0.7),
)


def draw_question(scene: Scene, rng: random.Random) -> Question | None:
    """Draw a question of any category and form; None where the scene allows none of it."""
    question = _ASKERS[rng.choices(list(_ASKERS), _ASKER_WEIGHTS)[0]](scene, rng)
    if question and question.answer in ("Yes", "No") and question.category == "count":
        for pattern, answer, share in _TOO_OFTEN:
            if question.answer == answer and rng.random() > share and re.fullmatch(pattern, question.text):
                return None
    return question
