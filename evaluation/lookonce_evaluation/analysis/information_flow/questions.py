"""Open questions about one object of an image, and which object that is."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from lookonce_evaluation.data.folder import read_lines, read_picture
from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.errors import EvaluationError
from lookonce_scenes.world import REGIONS, SHAPES, Scene, SceneObject

CATEGORIES = ("color", "shape", "size", "position")
_FIELDS = ("image", "question", "answer")


class ImageQuestion(NamedTuple):
    """A question about an image."""

    image: Image.Image
    category: str
    text: str
    answer: str
    shown: tuple[Scene, int] | None = None  # the object asked about, by its index in the scene


def about_objects(case: Case) -> list[ImageQuestion]:
    """Ask about one object in each category that the scene allows.

    The object is drawn by the scene's seed from those that the question names without a doubt.
    """
    scene = case.scene
    if scene is None:
        return []
    rng = random.Random(scene.seed)
    questions = []
    for category in CATEGORIES:
        possible = list(_possible(scene, category))
        if possible:
            o, text, answer = rng.choice(possible)
            questions.append(ImageQuestion(case.image, category, text, answer, (scene, scene.objects.index(o))))
    return questions


def _possible(scene: Scene, category: str) -> Iterator[tuple[SceneObject, str, str]]:
    """Objects, questions and answers."""
    for o in scene.objects:
        place = REGIONS[o.region]
        if category == "color" and o.kind in SHAPES and _is_unique(scene, o, "kind"):
            yield o, f"What color is the {o.kind}?", o.color
        if category == "color" and _is_unique(scene, o, "region"):
            yield o, f"What color is the object at the {place}?", o.color
        if category == "shape" and _is_unique(scene, o, "color"):
            yield o, f"What shape is the {o.color} object?", o.kind
        if category == "shape" and _is_unique(scene, o, "region"):
            yield o, f"What shape is at the {place}?", o.kind
        if category == "size" and o.kind in SHAPES:
            yield o, f"What size is the {o.color} {o.kind}?", o.size
        if category == "position":
            yield o, f"Where is the {o.color} {o.kind}?", place


def _is_unique(scene: Scene, o: SceneObject, attribute: str) -> bool:
    return [getattr(other, attribute) for other in scene.objects].count(getattr(o, attribute)) == 1


def read_questions(path: Path) -> list[tuple[str, list[ImageQuestion]]]:
    """Read the questions of a file, by their image.

    Args:
        path: JSON lines with `image` (a path, from the file's folder), `question` and `answer`.

    Raises:
        EvaluationError: it cannot be read, or a line lacks something.
    """
    by_image: dict[str, list[ImageQuestion]] = {}
    for where, text in read_lines("--questions", path, "a question"):
        name, question, answer = _fields(text, where)
        image = read_picture(path.parent / name)
        by_image.setdefault(name, []).append(ImageQuestion(image, "", question, answer))
    return list(by_image.items())


def _fields(text: str, where: str) -> list[str]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict) or not all(isinstance(fields.get(n), str) and fields[n].strip() for n in _FIELDS):
        raise EvaluationError(f'{where}: expected {{"image": "a.png", "question": "...", "answer": "..."}}')
    return [fields[name] for name in _FIELDS]
