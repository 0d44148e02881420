"""One image's describe pass, and all that the tables need to know of it."""

from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from lookonce_evaluation.dataset import Case
from lookonce_evaluation.describing import Described
from lookonce_evaluation.grounding.layers import Band, with_bands
from lookonce_evaluation.grounding.measures import MEASURES, chance, measured, patches_of
from lookonce_evaluation.grounding.shares import ROWS, shares
from lookonce_evaluation.grounding.words import CLASSES, Grounded, Reading, Word, read, words_of
from lookonce_evaluation.subject import Subject
from lookonce_scenes.world import masks
from lookonce_server.engines.geometry import Area

WORD_ROWS = ("generating", "reading")
"""A word's rows: those whose logits gave its tokens, one before each; and its tokens' own."""
_DIGITS = 6


class Looked(NamedTuple):
    """An image, its description, and where it is seen."""

    case: Case
    described: Described
    words: list[Word]
    reading: Reading | None  # None: what is in the image is not known
    patches: list[Tensor]  # of each object of the scene, [image tokens], bool
    area: Area | None  # of the image, in its pixels, that the tokens' grid covers; None: not known

    def maps(self, word: Word, rows: str) -> Tensor:
        """A word's attention to each image token, mean over its tokens and the heads: `[layers, image tokens]`."""
        first = self.described.prompt.tokens + word.tokens.start - (rows == "generating")
        weights = self.described.recorder.weights(
            range(first, first + len(word.tokens)), self.described.prompt.image_positions
        )
        return weights.mean(1)


def look(subject: Subject, case: Case) -> Looked:
    """Describe an image with the attention of every layer recorded."""
    described = subject.describe(case, range(subject.runner.num_layers))
    area = area_of(subject, case.image, described.prompt.grid)
    words = words_of(subject.prompts.tokenizer, described.said)
    if case.scene is None:
        return Looked(case, described, words, None, [], area)
    patches = [patches_of(one, area, described.prompt.grid) for one in masks(case.scene)] if area else []
    return Looked(case, described, words, read(described.text, words, case.scene), patches, area)


def area_of(subject: Subject, image: Image.Image, grid: tuple[int, int]) -> Area | None:
    """What of a picture the grid covers, where that is known: not of tiles, nor of tokens that form no grid."""
    return subject.framing.area(*image.size) if subject.framing and min(grid) > 1 else None


def record(looked: Looked, bands: list[Band], top: int) -> dict[str, Any]:
    """What the tables need of an image: sums over its words, small and as JSON."""
    described = looked.described
    made: dict[str, Any] = {
        "grid": list(described.prompt.grid),
        "words": len(looked.words),
        "shares": {},
        "grounding": None,
    }
    for rows in ROWS:
        found = shares(described, rows)
        made["shares"][rows] = {"attention": _rounded(found.attention), "even": _rounded(found.even)}
    if looked.reading and looked.area:
        made["grounding"] = {
            "mentions": looked.reading.mentions,
            "right": looked.reading.right,
            "classes": {kind: one for kind in CLASSES if (one := _summed(looked, kind, bands, top))},
        }
    return made


def _summed(looked: Looked, kind: str, bands: list[Band], top: int) -> dict[str, Any] | None:
    """Sums over the words of one class; None where there are none.

    `own` is measured on the word's object; `other` on the same object, with the maps of the same class of words of the
    image's other objects, where there are any: what a map gets that is right about objects, but not about which.
    """
    assert looked.reading
    words = [one for one in looked.reading.words if one.kind == kind and looked.patches[one.object].any()]
    if not words:
        return None
    others = [[i for i, two in enumerate(words) if two.object != one.object] for one in words]
    made: dict[str, Any] = {
        "words": len(words),
        "compared": sum(map(bool, others)),
        "chance": _rounded(torch.tensor([chance(looked.patches[one.object]) for one in words]).sum(0)),
    }
    for rows in WORD_ROWS:
        attention = [looked.maps(one.word, rows) for one in words]
        maps = [with_bands(one, bands) for one in attention]
        own = [measured(maps[i], _mask(looked, one), top) for i, one in enumerate(words)]
        other = [
            torch.stack([measured(maps[j], _mask(looked, words[i]), top) for j in them]).mean(0)
            for i, them in enumerate(others)
            if them
        ]
        made[rows] = {
            "own": _rounded(torch.stack(own).sum(0)),
            "other": _rounded(torch.stack(other).sum(0)) if other else [[0.0] * len(maps[0])] * len(MEASURES),
            "image": _rounded(torch.stack(attention).sum((0, 2))),
        }
    return made


def _mask(looked: Looked, word: Grounded) -> Tensor:
    return looked.patches[word.object]


def _rounded(values: Tensor) -> Any:
    return (values.double() * 10**_DIGITS).round().div(10**_DIGITS).tolist()
