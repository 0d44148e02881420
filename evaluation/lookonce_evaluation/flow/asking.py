"""Open questions about one object of an image, and which object that is."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from lookonce_evaluation.dataset import Case, decoded
from lookonce_evaluation.errors import EvaluationError
from lookonce_scenes.world import REGIONS, SHAPES, Scene, SceneObject

CATEGORIES = ("color", "shape", "size", "position")


class Asked(NamedTuple):
    """A question about an image."""

    image: Image.Image
    category: str
    text: str
    answer: str
    shown: tuple[Scene, int] | None = None  # the object asked about, by its index in the scene


def about_objects(case: Case) -> list[Asked]:
    """A question a category that the scene allows, each about one object, in the words that training used.

    The object is drawn by the scene's seed from those that the question names without a doubt.
    """
    scene = case.scene
    if scene is None:
        return []
    rng = random.Random(scene.seed)
    asked = []
    for category in CATEGORIES:
        possible = list(_possible(scene, category))
        if possible:
            o, text, answer = rng.choice(possible)
            asked.append(Asked(case.image, category, text, answer, (scene, scene.objects.index(o))))
    return asked


def _possible(scene: Scene, category: str) -> Iterator[tuple[SceneObject, str, str]]:
    """Objects, questions and answers."""
    for o in scene.objects:
        place = REGIONS[o.region]
        if category == "color":
            if o.kind in SHAPES and _unique(scene, o, "kind"):
                yield o, f"What color is the {o.kind}?", o.color
            if _unique(scene, o, "region"):
                yield o, f"What color is the object at the {place}?", o.color
        elif category == "shape":
            if _unique(scene, o, "color"):
                yield o, f"What shape is the {o.color} object?", o.kind
            if _unique(scene, o, "region"):
                yield o, f"What shape is at the {place}?", o.kind
        elif category == "position":
            yield o, f"Where is the {o.color} {o.kind}?", place
        elif o.kind in SHAPES:
            yield o, f"What size is the {o.color} {o.kind}?", o.size


def _unique(scene: Scene, o: SceneObject, attribute: str) -> bool:
    return [getattr(other, attribute) for other in scene.objects].count(getattr(o, attribute)) == 1


def read_questions(path: Path) -> list[tuple[str, list[Asked]]]:
    """The questions of a file, by their image.

    Args:
        path: JSON lines with `image` (a path, from the file's folder), `question` and `answer`.

    Raises:
        EvaluationError: it cannot be read, or a line lacks something.
    """
    by_image: dict[str, list[Asked]] = {}
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"--questions {path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        name, text, answer = _fields(line, f"--questions {path}, line {number}")
        image = decoded(path.parent / name)
        by_image.setdefault(name, []).append(Asked(image, "", text, answer))
    if not by_image:
        raise EvaluationError(f"--questions {path}: expected at least one line")
    return list(by_image.items())


def _fields(line: str, where: str) -> list[str]:
    names = ("image", "question", "answer")
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(n), str) and found[n].strip() for n in names):
        raise EvaluationError(f'{where}: expected {{"image": "a.png", "question": "...", "answer": "..."}}')
    return [found[name] for name in names]
