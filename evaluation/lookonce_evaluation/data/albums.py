"""Held-out albums: several images each, with questions about one of them and about several."""

import re

from PIL import Image

from lookonce_evaluation.data.image_set import Alone, ImageSet
from lookonce_evaluation.data.scenes import HELD_OUT_SEED
from lookonce_scenes.album import ORDINALS, sample_album
from lookonce_scenes.world import render

SIZES = (2, 3, 4)
"""Images of an album, in turn."""
ONE = "one "
"""Begins the categories of questions about one image."""
_UNGRADED = "one describe"  # a description has no one right wording
_ORDINALS = "|".join((*ORDINALS, "last"))
_NAME = re.compile(rf"\b(?:the (?P<ordinal>{_ORDINALS}) (?:image|picture)|image (?P<number>\d))\b", re.IGNORECASE)


def held_out_albums(count: int, first_seed: int = HELD_OUT_SEED) -> list[ImageSet]:
    """Draw `count` albums of scenes that no training has seen, with their questions."""
    return [_album(first_seed + i, SIZES[i % len(SIZES)]) for i in range(count)]


def _album(seed: int, size: int) -> ImageSet:
    album = sample_album(seed, size)
    questions = [question for question in album.questions if question.category != _UNGRADED]
    alone = [ask_alone(question.text, size) if question.category.startswith(ONE) else None for question in questions]
    return ImageSet(str(seed), [Image.fromarray(render(scene)) for scene in album.scenes], questions, alone)


def ask_alone(text: str, images: int) -> Alone:
    """Find which image a question names, and take the name out of it."""
    named = _NAME.search(text)
    if named is None:
        raise ValueError(f"{text!r} names no image")
    ordinal, number = named["ordinal"], named["number"]
    at = int(number) - 1 if number else images - 1 if ordinal == "last" else ORDINALS.index(ordinal.lower())
    heading = text[named.end() :].removeprefix(": ")
    if not named.start() and heading != text[named.end() :]:
        return Alone(at, heading)  # "Image 2: What is it?"
    return Alone(at, f"{text[: named.start()]}{'The' if not named.start() else 'the'} image{text[named.end() :]}")
