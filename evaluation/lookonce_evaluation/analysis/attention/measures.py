"""How attention is divided, and how well a map over the image tokens agrees with where an object is."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce_evaluation.describe import DescribePass
from lookonce_server.engines.geometry import Area
from lookonce_server.sessions.heatmap import cells_of

GROUPS = ("first", "system", "image", "query", "generated")
"""The sequence's first token, on which attention often rests for want of anything to look at (a sink); the other text
before the image's end; the image; the prompt's text after it; the description."""
ROWS = ("query", "generated")
"""Rows whose attention is divided, as `AttentionRecorder.scores` names them: the prompt's after the image; those that
generate the description, which are the last prompt position's and every generated token's."""
MEASURES = ("peak", "top", "iou", "mass")
"""Whether the highest patch is on the object (the pointing game); the share of the k highest that is; the intersection
over union of the object's patches with as many of the highest; the share of the map's attention that is on it."""
COVERED = 0.25
"""A patch is an object's when the object covers this share of it, or no patch more: a small one fills none."""
_ROWS_AT_ONCE = 16  # bounds what is in memory to [layers, 16, tokens]


class Shares(NamedTuple):
    """Means over rows; each sums to 1 over the groups."""

    attention: Tensor  # [layers, groups]
    even: Tensor  # [groups], had each row divided its attention evenly among the tokens it sees


def shares(described: DescribePass, rows: str) -> Shares:
    """Divide the attention of the rows of one kind."""
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
    return Shares(attention / (stop - start), even / (stop - start))


def groups_of(image_positions: Tensor, prompt_length: int, total: int) -> Tensor:
    """Tell which of GROUPS each token is of, `[total]`; text between the parts of an image is "system"."""
    groups = torch.full((total,), GROUPS.index("generated"))
    groups[:prompt_length] = GROUPS.index("query")
    groups[: int(image_positions[-1])] = GROUPS.index("system")
    groups[0] = GROUPS.index("first")
    groups[image_positions] = GROUPS.index("image")
    return groups


def _by_group(weights: Tensor, groups: Tensor) -> Tensor:
    """Sums of weights `[layers, columns]` by group, `[layers, groups]`."""
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
    """List the thirds of the depth, those that hold a layer, and the window whose attention the server scores by."""
    edges = [round(i * num_layers / 3) for i in range(4)]
    thirds = zip(("early", "middle", "late"), pairwise(edges), strict=True)
    return [Band(name, range(*ends)) for name, ends in thirds if ends[0] < ends[1]] + [Band("scored", window)]


def with_bands(maps: Tensor, bands: list[Band]) -> Tensor:
    """Add the mean of each band to maps `[layers, image tokens]`: `[layers + bands, image tokens]`."""
    means = [maps[band.layers.start : band.layers.stop].mean(0) for band in bands]
    return torch.cat([maps, torch.stack(means)])


def patches_of(mask: NDArray[np.bool_], area: Area, grid: tuple[int, int]) -> Tensor:
    """Find the patches that an object covers, `[rows * columns]`, bool; none where the model does not see it.

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
    """Compute what is expected of each of MEASURES of a map without any sense, one that is drawn at random or even."""
    size, count = int(patches.sum()), len(patches)
    both = torch.arange(max(0, 2 * size - count), size + 1, dtype=torch.float64)
    ways = (_log_choices(size, both) + _log_choices(count - size, size - both)).softmax(0)
    return [size / count, size / count, float((ways * both / (2 * size - both)).sum()), size / count]


def _log_choices(total: int, taken: Tensor) -> Tensor:
    """Logarithm of how many ways there are to take some of a total, up to what does not depend on how many."""
    return -torch.lgamma(taken + 1) - torch.lgamma(total - taken + 1)
