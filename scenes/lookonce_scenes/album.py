"""Draw albums: several pictures in one conversation, with questions about one of them, about which, about all.

"Which image" is answered by an ordinal ("first", "second"), by "both" or "all", or by "none".
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lookonce_scenes.phrasings import draw_question, matching, noun_for
from lookonce_scenes.questions import Question, with_article
from lookonce_scenes.world import NARROW, Scene, World, fits_ground, in_reading_order, sample_scene

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
SEED_STEP = 10_000_000
"""Between the seeds of an album's scenes: held-out albums have held-out scenes."""

AlbumAsker = Callable[[Sequence[Scene], random.Random], Question | None]


@dataclass(frozen=True, slots=True)
class Album:
    """Pictures that belong to one conversation, and questions about them.

    Attributes:
        scenes: in order; `world.render` draws each.
        questions: of the categories "one ..." (about one image), "which", "same" and "total".

    """

    scenes: tuple[Scene, ...]
    questions: tuple[Question, ...]


def sample_album(seed: int, count: int = 2, questions: int = 12, world: World = NARROW, max_objects: int = 4) -> Album:
    """Draw an album at random.

    Args:
        seed: the same seed gives the same album.
        count: pictures.
        questions: at most so many, all different.
        world: what is drawn from.
        max_objects: most objects of a picture.

    """
    scenes = sample_scenes(seed, count, world, max_objects)
    rng = random.Random(seed + 3)
    found: dict[str, Question] = {}
    for _ in range(questions * 4):
        if len(found) < questions and (question := draw_album_question(scenes, rng)):
            found.setdefault(question.text, question)
    return Album(scenes, tuple(found.values()))


def sample_scenes(seed: int, count: int, world: World = NARROW, max_objects: int = 4) -> tuple[Scene, ...]:
    """Draw an album's pictures; later ones often show an object of the first one."""
    rng = random.Random(seed + 2)
    scenes = [sample_scene(seed + i * SEED_STEP, max_objects=max_objects, world=world) for i in range(count)]
    return tuple(
        scene if i == 0 or rng.random() < 0.5 else _share(scenes[0], scene, rng) for i, scene in enumerate(scenes)
    )


def _share(first: Scene, scene: Scene, rng: random.Random) -> Scene:
    """Give one of a scene's objects the look of one of the first scene's."""
    model, at = rng.choice(first.objects), rng.randrange(len(scene.objects))
    old = scene.objects[at]
    others = [o for o in scene.objects if o is not old]
    if any((o.kind, o.color) == (model.kind, model.color) for o in others) or model.kind.isdigit():
        return scene
    new = replace(model, x=old.x, y=old.y, radius=old.radius, size=old.size, line=0.0)
    if old.kind.isdigit() or not fits_ground(new, scene.style):
        return scene
    return replace(scene, objects=in_reading_order([*others, new]))


def name_image(rng: random.Random, at: int, count: int) -> str:
    """Draw a name of one image: "the second image", "image 2", "the last image"."""
    names = [f"the {ORDINALS[at]} image", f"the {ORDINALS[at]} image", f"the {ORDINALS[at]} picture", f"image {at + 1}"]
    if at == count - 1 and count > 1:
        names.append("the last image")
    return rng.choice(names)


def about_one(text: str, image: str, rng: random.Random) -> str:
    """Ask a question of one image: "Is there a star in the second image?"."""
    text = text.removesuffix(" here?") + "?" if text.endswith(" here?") else text
    if re.search(r" in the (?:image|picture)\b", text):
        return re.sub(r" in the (?:image|picture)\b", f" in {image}", text)
    asks_inside = re.search(r"\b(?:the|this|no) (?:image|picture)\b", text)
    begun = text[0].lower() + text[1:]
    if asks_inside:
        named = re.sub(r"\b(?:the|this) (?:image|picture)\b", image, text)
        if named == text or named.count(image) > 1:
            return f"In {image}, {begun}"
        return named[0].upper() + named[1:]
    forms = [f"In {image}, {begun}", f"{image[0].upper()}{image[1:]}: {text}"]
    if text.endswith(("?", ".")):
        forms += [f"{text[:-1]} in {image}{text[-1]}"] * 2
    return rng.choice(forms)


def ask_about_one(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    """Ask about one: `What color is the circle in the second image?`."""
    at = rng.randrange(len(scenes))
    image = name_image(rng, at, len(scenes))
    if rng.random() < 0.08:
        return Question("one describe", f"Describe {image}.", scenes[at].caption)
    question = draw_question(scenes[at], rng)
    if question is None:
        return None
    return Question(f"one {question.category}", about_one(question.text, image, rng), question.answer)


def _noun_somewhere(scenes: Sequence[Scene], rng: random.Random) -> str | None:
    return noun_for(rng.choice(scenes), rng, there=rng.random() < 0.85)


def name_images(found: Sequence[int], count: int) -> str | None:
    """Return the answer to "which image": one ordinal, both, all or none."""
    if len(found) == 1:
        return ORDINALS[found[0]]
    if len(found) == count:
        return "both" if count == 2 else "all"
    return None if found else "none"


def ask_which(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    """Which image has a star?"""
    noun = _noun_somewhere(scenes, rng)
    if noun is None:
        return None
    answer = name_images([i for i, scene in enumerate(scenes) if matching(scene, noun)], len(scenes))
    if answer is None or (answer == "none" and rng.random() < 0.6):
        return None
    forms = (
        "Which image has {a}?",
        "Which image shows {a}?",
        "In which image is there {a}?",
        "Which one has {a}?",
        "Which picture contains {a}?",
        "In which image do you see {a}?",
        "Which of the images has {a}?",
    )
    return Question("which", rng.choice(forms).format(a=with_article(noun)), answer)


def ask_which_has_most(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    """Which image has more objects?"""
    noun = "object" if rng.random() < 0.5 else _noun_somewhere(scenes, rng)
    if noun is None:
        return None
    counts = [len(matching(scene, noun)) for scene in scenes]
    least = rng.random() < 0.3
    best = min(counts) if least else max(counts)
    if counts.count(best) != 1:
        return None
    degree = ("fewer" if least else "more") if len(scenes) == 2 else ("the fewest" if least else "the most")
    forms = (
        f"Which image has {degree} {noun}s?",
        f"Which image shows {degree} {noun}s?",
        f"Which one has {degree} {noun}s?",
        f"In which image are there {degree} {noun}s?",
    )
    return Question("which", rng.choice(forms), ORDINALS[counts.index(best)])


def ask_shared(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    """Do both images show a circle?"""
    wanted, every = rng.random() < 0.5, "both" if len(scenes) == 2 else "all"
    for _ in range(8):
        noun = _noun_somewhere(scenes, rng)
        if noun is None:
            continue
        shown = [bool(matching(scene, noun)) for scene in scenes]
        thing = with_article(noun)
        claims = [
            (f"Do {every} images show {thing}?", all(shown)),
            (f"Is there {thing} in {every} images?", all(shown)),
            (f"Do {every} images have {thing}?", all(shown)),
            (f"Does any image show {thing}?", any(shown)),
            (f"Is there {thing} in any image?", any(shown)),
            (f"Is there no {noun} in any image?", not any(shown)),
        ]
        if fitting := [text for text, truth in claims if truth == wanted]:
            return Question("same", rng.choice(fitting), "Yes" if wanted else "No")
    return None


def ask_same(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    """Do the images show the same number of objects? Is the star of the same color in both images?"""
    wanted = rng.random() < 0.5
    counts = [len(scene.objects) for scene in scenes]
    pair = rng.sample(range(len(scenes)), 2)
    one, other = (name_image(rng, i, len(scenes)) for i in pair)
    a, b = (scenes[i] for i in pair)
    more = counts[pair[0]] - counts[pair[1]]
    claims = [
        ("Do the images show the same number of objects?", len(set(counts)) == 1),
        ("Do the images have a different number of objects?", len(set(counts)) > 1),
        (f"Are there more objects in {one} than in {other}?", more > 0),
        (f"Does {one} have more objects than {other}?", more > 0),
        (f"Are there fewer objects in {one} than in {other}?", more < 0),
    ]
    for attribute, word in (("color", "color"), ("size", "size")):
        for kind in dict.fromkeys(o.kind for o in a.objects):  # in an order that every process has
            first, second = matching(a, kind), matching(b, kind)
            if len(first) == len(second) == 1:
                same = getattr(first[0], attribute) == getattr(second[0], attribute)
                claims += [
                    (f"Is the {kind} in {one} the same {word} as the {kind} in {other}?", same),
                    (f"Does the {kind} in {one} have the same {word} as in {other}?", same),
                    (f"Does the {kind} have a different {word} in {one} and in {other}?", not same),
                ]
    fitting = [text for text, truth in claims if truth == wanted]
    return Question("same", rng.choice(fitting), "Yes" if wanted else "No") if fitting else None


def ask_total(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    """How many objects are there in all images?"""
    noun = "object" if rng.random() < 0.4 else _noun_somewhere(scenes, rng)
    if noun is None:
        return None
    counts = [len(matching(scene, noun)) for scene in scenes]
    every = "both" if len(scenes) == 2 else "all"
    form = rng.random()
    texts: tuple[str, ...]
    if form < 0.6:
        texts = (
            f"How many {noun}s are there in total?",
            f"How many {noun}s are there in all images?",
            f"How many {noun}s are in {every} images together?",
            f"How many {noun}s are there altogether?",
        )
        return Question("total", rng.choice(texts), str(sum(counts)))
    if form < 0.8:
        texts = (f"How many images show {with_article(noun)}?", f"How many images have {with_article(noun)}?")
        return Question("total", rng.choice(texts), str(sum(c > 0 for c in counts)))
    if form < 0.85:
        texts = ("How many images are there?", "How many images do you see?", "How many pictures are there?")
        return Question("total", rng.choice(texts), str(len(scenes)))
    a, b = rng.sample(range(len(scenes)), 2)
    if counts[a] <= counts[b]:
        return None
    one, other = (name_image(rng, i, len(scenes)) for i in (a, b))
    text = f"How many more {noun}s are in {one} than in {other}?"
    return Question("total", text, str(counts[a] - counts[b]))


def ask_common(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    """Which shape is in both images? Only where it is one."""
    attribute, word = rng.choice((("kind", "shape"), ("color", "color")))
    common = set.intersection(*({getattr(o, attribute) for o in scene.objects} for scene in scenes))
    if len(common) != 1 or any(o.kind.isdigit() for scene in scenes for o in scene.objects):
        return None
    every = "both" if len(scenes) == 2 else "all"
    forms = (f"Which {word} is in {every} images?", f"What {word} do {every} images have?")
    return Question("same", rng.choice(forms), common.pop())


_ACROSS: tuple[tuple[AlbumAsker, float], ...] = (
    (ask_which, 3.0),
    (ask_which_has_most, 1.5),
    (ask_shared, 2.0),
    (ask_same, 2.0),
    (ask_total, 2.0),
    (ask_common, 0.5),
)


def draw_album_question(scenes: Sequence[Scene], rng: random.Random) -> Question | None:
    """Draw a question about one of the images, about which, or about all."""
    if len(scenes) == 1:
        return draw_question(scenes[0], rng)
    if rng.random() < 0.5:
        return ask_about_one(scenes, rng)
    return rng.choices([a for a, _ in _ACROSS], [w for _, w in _ACROSS])[0](scenes, rng)
