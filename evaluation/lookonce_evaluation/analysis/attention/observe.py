"""One image's describe pass, and all that the tables need to know of it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.analysis.attention.measures import (
    MEASURES,
    ROWS,
    Band,
    chance,
    measured,
    patches_of,
    shares,
    with_bands,
)
from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.describe import DescribePass, describe
from lookonce_evaluation.metrics.captions import ATTRIBUTES, Reading, Word, ground, spell
from lookonce_evaluation.model import EvalModel
from lookonce_scenes.world import masks
from lookonce_server.engines.geometry import Area

WORD_ROWS = ("generating", "reading")
"""A word's rows: those whose logits gave its tokens, one before each; and its tokens' own."""
_DIGITS = 6


class Observation(NamedTuple):
    """An image, its description, and where it is seen."""

    case: Case
    described: DescribePass
    words: list[Word]
    reading: Reading | None  # None: what is in the image is not known
    patches: list[Tensor]  # of each object of the scene, [image tokens], bool
    area: Area | None  # of the image, in its pixels, that the tokens' grid covers; None: not known

    def maps(self, word: Word, rows: str) -> Tensor:
        """Average a word's attention to each image token over its tokens and the heads: `[layers, image tokens]`."""
        first = self.described.prompt.tokens + word.tokens.start - (rows == "generating")
        positions = range(first, first + len(word.tokens))
        return self.described.recorder.weights(positions, self.described.prompt.image_positions).mean(1)


def observe(model: EvalModel, case: Case) -> Observation:
    """Describe an image with the attention of every layer recorded."""
    described = describe(model, case, range(model.num_layers))
    grid, scene = described.prompt.grid, case.scene
    # Not of tiles, nor of tokens that form no grid.
    area = model.framing.area(*case.image.size) if model.framing and min(grid) > 1 else None
    spelling = spell(model, described.output_ids[: described.tokens - described.prompt.tokens])
    patches = [patches_of(mask, area, grid) for mask in masks(scene)] if scene and area else []
    return Observation(case, described, spelling.words, ground(spelling, scene) if scene else None, patches, area)


def record(seen: Observation, bands: list[Band], top: int) -> dict[str, Any]:
    """Record what the tables need of an image: sums over its words, small and as JSON."""
    divided = {rows: shares(seen.described, rows) for rows in ROWS}
    grounding = None
    if seen.reading and seen.area:
        sums = {kind: _sums(seen, kind, bands, top) for kind in ATTRIBUTES}
        classes = {kind: found for kind, found in sums.items() if found}
        grounding = {"mentions": seen.reading.mentions, "right": seen.reading.right, "classes": classes}
    return {
        "grid": list(seen.described.prompt.grid),
        "words": len(seen.words),
        "shares": {
            rows: {"attention": _rounded(each.attention), "even": _rounded(each.even)} for rows, each in divided.items()
        },
        "grounding": grounding,
    }


def _sums(seen: Observation, kind: str, bands: list[Band], top: int) -> dict[str, Any] | None:
    """Sums over the words of one class; None where there are none.

    `own` is measured on the word's object; `other` on the same object, with the maps of the same class of words of the
    image's other objects, where there are any: what a map gets that is right about objects, but not about which.
    """
    assert seen.reading
    words = [each for each in seen.reading.words if each.kind == kind and seen.patches[each.object].any()]
    if not words:
        return None
    patches = [seen.patches[word.object] for word in words]
    others = [[i for i, other in enumerate(words) if other.object != word.object] for word in words]
    sums: dict[str, Any] = {
        "words": len(words),
        "compared": sum(map(bool, others)),
        "chance": _rounded(torch.tensor([chance(each) for each in patches]).sum(0)),
    }
    for rows in WORD_ROWS:
        attention = [seen.maps(word.word, rows) for word in words]
        maps = [with_bands(each, bands) for each in attention]
        own = [measured(each, patch, top) for each, patch in zip(maps, patches, strict=True)]
        other = [
            torch.stack([measured(maps[j], patch, top) for j in them]).mean(0)
            for patch, them in zip(patches, others, strict=True)
            if them
        ]
        sums[rows] = {
            "own": _rounded(torch.stack(own).sum(0)),
            "other": _rounded(torch.stack(other).sum(0)) if other else [[0.0] * len(maps[0])] * len(MEASURES),
            "image": _rounded(torch.stack(attention).sum((0, 2))),
        }
    return sums


def _rounded(values: Tensor) -> Any:
    return (values.double() * 10**_DIGITS).round().div(10**_DIGITS).tolist()
