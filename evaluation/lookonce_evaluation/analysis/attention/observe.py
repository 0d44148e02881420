"""One image's describe pass, and the measures of its attention.

All attention is `AttentionRecorder.weights`, the server's own: what is analysed here is what selections rank by.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.describe import DescribePass, describe
from lookonce_evaluation.metrics.captions import ATTRIBUTES, Reading, Word, ground, spell
from lookonce_evaluation.model import EvalModel
from lookonce_scenes.world import masks
from lookonce_server.engines.geometry import Area
from lookonce_server.sessions.heatmap import cells_of

GROUPS = ("first", "system", "image", "query", "generated")
"""The sequence's first token, on which attention often rests for want of anything to look at (a sink); the other text
before the image's end; the image; the prompt's text after it; the description."""
ROWS = ("query", "generated")
"""Rows whose attention is divided, as `AttentionRecorder.scores` names them: the prompt's after the image; those that
generate the description, which are the last prompt position's and every generated token's."""
WORD_ROWS = ("generating", "reading")
"""A word's rows: those whose logits gave its tokens, one before each; and its tokens' own."""
MEASURES = ("peak", "top", "iou", "mass")
"""Whether the highest patch is on the object (the pointing game); the share of the k highest that is; the intersection
over union of the object's patches with as many of the highest; the share of the map's attention that is on it."""
COVERED = 0.25
"""A patch is an object's when the object covers this share of it, or no patch more: a small one fills none."""
_DIGITS = 6
_ROWS_AT_ONCE = 16  # bounds what is in memory to [layers, 16, tokens]


def shares(described: DescribePass, rows: str) -> tuple[Tensor, Tensor]:
    """Divide the attention of the rows of one kind among GROUPS, mean over rows.

    Returns:
        The attention, `[layers, groups]`; and `[groups]`, had each row divided it evenly among the tokens it sees.
    """
    prompt = described.prompt
    start = described.after_image if rows == "query" else prompt.tokens - 1
    stop = prompt.tokens if rows == "query" else described.tokens
    groups = groups_of(prompt.image_positions, prompt.tokens, described.tokens)
    attention, even = torch.zeros(1, len(GROUPS)).double(), torch.zeros(len(GROUPS)).double()
    for first in range(start, stop, _ROWS_AT_ONCE):
        part = range(first, min(first + _ROWS_AT_ONCE, stop))
        weights = described.recorder.weights(part, torch.arange(part.stop)).double()
        attention = attention + _by_group(weights.sum(1), groups[: part.stop])
        for row in part:
            even += _by_group(torch.ones(1, row + 1), groups[: row + 1])[0] / (row + 1)
    return attention / (stop - start), even / (stop - start)


def groups_of(image_positions: Tensor, prompt_length: int, total: int) -> Tensor:
    """Sort tokens into GROUPS, `[total]`; text within an image is "system"."""
    groups = torch.full((total,), GROUPS.index("generated"))
    groups[:prompt_length] = GROUPS.index("query")
    groups[: int(image_positions[-1])] = GROUPS.index("system")
    groups[0] = GROUPS.index("first")
    groups[image_positions] = GROUPS.index("image")
    return groups


def _by_group(weights: Tensor, groups: Tensor) -> Tensor:
    """Sum weights `[layers, columns]` by group, `[layers, groups]`."""
    return torch.zeros(len(weights), len(GROUPS), dtype=torch.float64).index_add_(1, groups, weights.double())


class Band(NamedTuple):
    """Neighbouring layers, over which attention is averaged before it is measured."""

    name: str
    layers: range

    @property
    def label(self) -> str:
        """The band as in "early (0-2)": both ends are in it."""
        first, last = self.layers[0], self.layers[-1]
        return f"{self.name} ({first}-{last})" if first != last else f"{self.name} ({first})"


def bands_of(num_layers: int, window: range) -> list[Band]:
    """List the thirds of the depth, if not empty, and the scored window."""
    edges = [round(i * num_layers / 3) for i in range(4)]
    thirds = zip(("early", "middle", "late"), pairwise(edges), strict=True)
    return [Band(name, range(*ends)) for name, ends in thirds if ends[0] < ends[1]] + [Band("scored", window)]


def with_bands(maps: Tensor, bands: list[Band]) -> Tensor:
    """Append the mean of each band to maps `[layers, image tokens]`."""
    means = [maps[band.layers.start : band.layers.stop].mean(0) for band in bands]
    return torch.cat([maps, torch.stack(means)])


def patches_of(mask: NDArray[np.bool_], area: Area, grid: tuple[int, ...]) -> Tensor:
    """Find the patches that an object covers, `[rows * columns]`, bool.

    Args:
        mask: [height, width] of the picture, True on the object.
        area: of the picture, in its pixels, that the grid covers.
        grid: rows and columns.
    """
    rows = cells_of(mask.shape[0], area.top, area.bottom, grid[0])
    columns = cells_of(mask.shape[1], area.left, area.right, grid[1])
    pixels, covered = np.zeros(grid), np.zeros(grid)
    cells = np.ix_(rows[rows >= 0], columns[columns >= 0])
    np.add.at(pixels, cells, 1)
    np.add.at(covered, cells, mask[np.ix_(rows >= 0, columns >= 0)])
    share = torch.from_numpy(covered / np.maximum(pixels, 1)).flatten()
    return (share > 0) & ((share >= COVERED) | (share == share.max()))


def measured(maps: Tensor, patches: Tensor, top: int) -> Tensor:
    """Compute each of MEASURES for each map, `[measures, maps]`, in 0-1.

    Args:
        maps: [maps, image tokens], not negative.
        patches: [image tokens], bool, at least one: the object's.
        top: how many patches the measure of that name takes.
    """
    order = maps.argsort(dim=-1, descending=True, stable=True)
    hits = patches[order].double()
    size = int(patches.sum())
    both = hits[:, :size].sum(-1)
    mass = (maps * patches).sum(-1).double() / maps.sum(-1).double().clamp(min=1e-30)
    return torch.stack([hits[:, 0], hits[:, :top].mean(-1), both / (2 * size - both), mass])


def chance(patches: Tensor) -> list[float]:
    """Compute the expectation of each of MEASURES for a random or an even map."""
    size, count = int(patches.sum()), len(patches)
    both = torch.arange(max(0, 2 * size - count), size + 1, dtype=torch.float64)
    # Logarithms of the chances of these overlaps, hypergeometric, up to a constant.
    factorials = torch.stack([both + 1, size - both + 1, size - both + 1, count - 2 * size + both + 1])
    chances = (-torch.lgamma(factorials).sum(0)).softmax(0)
    return [size / count, size / count, float((chances * both / (2 * size - both)).sum()), size / count]


class Observation(NamedTuple):
    """An image, its description, and where it is seen."""

    case: Case
    described: DescribePass
    words: list[Word]
    reading: Reading | None  # None: what is in the image is not known
    patches: list[Tensor]  # of each object of the scene, [image tokens], bool
    area: Area | None  # of the image, in its pixels, that the tokens' grid covers; None: not known

    def maps(self, word: Word, rows: str) -> Tensor:
        """Average a word's attention to the image: `[layers, image tokens]`."""
        first = self.described.prompt.tokens + word.tokens.start - (rows == "generating")
        positions = range(first, first + len(word.tokens))
        return self.described.recorder.weights(positions, self.described.prompt.image_positions).mean(1)


def observe(model: EvalModel, case: Case) -> Observation:
    """Describe an image with the attention of every layer recorded."""
    described = describe(model, case, range(model.num_layers))
    grid, scene = described.prompt.grid, case.scene
    # Not of tiles, nor of tokens that form no grid.
    area = model.framing.area(*case.image.size) if model.framing and min(grid) > 1 else None
    text, words = spell(model, described.output_ids[: described.tokens - described.prompt.tokens])
    patches = [patches_of(mask, area, grid) for mask in masks(scene)] if scene and area else []
    return Observation(case, described, words, ground(text, words, scene) if scene else None, patches, area)


def record(seen: Observation, bands: list[Band], top: int) -> dict[str, Any]:
    """Record an image's shares, and the sums over its words, as JSON."""
    grounding = None
    if seen.reading and seen.area:
        sums = {kind: _sums(seen, kind, bands, top) for kind in ATTRIBUTES}
        classes = {kind: values for kind, values in sums.items() if values}
        grounding = {"mentions": seen.reading.mentions, "right": seen.reading.right, "classes": classes}
    divided = {
        rows: dict(zip(("attention", "even"), map(_rounded, shares(seen.described, rows)), strict=True))
        for rows in ROWS
    }
    return {"grid": list(seen.described.prompt.grid), "shares": divided, "grounding": grounding}


def _sums(seen: Observation, kind: str, bands: list[Band], top: int) -> dict[str, Any] | None:
    """Sum over the words of one class; None where there are none.

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
