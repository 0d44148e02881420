"""Held-out pictures with questions whose answers are known."""

import base64
import io
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

from PIL import Image

from lookonce_scenes.questions import OPEN, Question
from lookonce_scenes.world import Scene, render, sample_scene

MAX_OBJECTS = 3


@cache
def scene(seed: int) -> Scene:
    """A held-out scene: seeds below 1e9 are never trained on."""
    return sample_scene(seed, 1, MAX_OBJECTS)


@cache
def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(render(scene(seed))).save(file, "PNG")
    return file.getvalue()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def picture_url(seed: int) -> str:
    return data_url(png(seed))


def questions(seed: int, count: int) -> list[Question]:
    """Different open questions about a scene, of all categories in turn; the same seed gives the same ones."""
    rng = random.Random(seed)
    found: dict[str, Question] = {}
    for category in _in_turn():
        question = OPEN[category](scene(seed), rng)
        if question:
            found.setdefault(question.text, question)
        if len(found) == count:
            return list(found.values())
    raise AssertionError("unreachable")


def find_question(seed: int) -> str:
    """A question about a scene whose answer has many tokens."""
    return f"Find the {scene(seed).objects[0].color} object."


def messages(question: str, image: str | None) -> list[dict[str, Any]]:
    """A chat with one question about an image, given by its URL."""
    text = {"type": "text", "text": question}
    parts = [text, {"type": "image_url", "image_url": {"url": image}}] if image else [text]
    return [{"role": "user", "content": parts}]


def _in_turn() -> Iterator[str]:
    for _ in range(1000):
        yield from OPEN
