"""Tokens spread evenly over the image: the baseline that needs no scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lookonce_pruning.selection.base import check_keep

if TYPE_CHECKING:
    from torch import Tensor

    from lookonce_pruning.scores import ImageScores


class Uniform:
    """Keep a lattice as square as the count allows, in bands of the grid.

    A video's frames are one below the other.
    """

    def select(self, scores: ImageScores, keep: int) -> Tensor:
        """See `Selection.select`; one row."""
        import torch

        check_keep(scores, keep)
        cells: list[int] = []
        *above, width = scores.grid
        height = math.prod(above)
        bands = _band_count(keep, height, width)
        for band in range(bands):
            row = _centre(band, bands, height)
            share = (band + 1) * keep // bands - band * keep // bands
            cells += [row * width + _centre(column, share, width) for column in range(share)]
        return torch.tensor([cells], dtype=torch.int64)


def _band_count(keep: int, height: int, width: int) -> int:
    """Return how many rows of the grid are used, to hold `keep` cells."""
    fewest = math.ceil(keep / width)
    squarest = round(math.sqrt(keep * height / width))
    return max(fewest, min(squarest, height, keep))


def _centre(part: int, parts: int, length: int) -> int:
    """Return the middle of the part-th of `parts` equal parts of a length."""
    return (2 * part + 1) * length // (2 * parts)
