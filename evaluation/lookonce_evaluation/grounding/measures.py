"""How well a map over the image tokens agrees with where an object is."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce_server.engines.geometry import Area
from lookonce_server.sessions.heatmap import cells_of

MEASURES = ("peak", "top", "iou", "mass")
"""Whether the highest patch is on the object (the pointing game); the share of the k highest that is; the intersection
over union of the object's patches with as many of the highest; the share of the map's attention that is on it."""
COVERED = 0.25
"""A patch is an object's when the object covers this share of it, or no patch more: a small one fills none."""


def patches_of(mask: NDArray[np.bool_], area: Area, grid: tuple[int, int]) -> Tensor:
    """The patches that an object covers, `[rows * columns]`, bool; none where it lies outside of what the model sees.

    Args:
        mask: [height, width] of the picture, True on the object.
        area: of the picture, in its pixels, that the grid covers.
        grid: rows and columns.
    """
    rows = cells_of(mask.shape[0], area.top, area.bottom, grid[0])
    columns = cells_of(mask.shape[1], area.left, area.right, grid[1])
    pixels, covered = np.zeros(grid), np.zeros(grid)
    seen = np.ix_(rows >= 0, columns >= 0)
    cells = np.ix_(rows[rows >= 0], columns[columns >= 0])
    np.add.at(pixels, cells, 1)
    np.add.at(covered, cells, mask[seen])
    share = torch.from_numpy(covered / np.maximum(pixels, 1)).flatten()
    return (share > 0) & ((share >= COVERED) | (share == share.max()))


def measured(maps: Tensor, patches: Tensor, top: int) -> Tensor:
    """Each of MEASURES for each map, `[measures, maps]`, in 0-1.

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
    """What is expected of each of MEASURES of a map without any sense, one that is drawn at random or even."""
    size, count = int(patches.sum()), len(patches)
    both = torch.arange(max(0, 2 * size - count), size + 1, dtype=torch.float64)
    ways = (_log_choices(size, both) + _log_choices(count - size, size - both)).softmax(0)
    return [size / count, size / count, float((ways * both / (2 * size - both)).sum()), size / count]


def _log_choices(total: int, taken: Tensor) -> Tensor:
    """Logarithm of how many ways there are to take some of a total, up to what does not depend on how many."""
    return -torch.lgamma(taken + 1) - torch.lgamma(total - taken + 1)
