"""Attention joined with coverage: a chosen token makes its neighbours less wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookonce_pruning.selection.base import check_keep

if TYPE_CHECKING:
    from torch import Tensor

    from lookonce_pruning.scores import ImageScores

_LEAST = -1e3  # of a log factor: as good as never, yet sums of it stay finite


@dataclass(frozen=True)
class Coverage:
    """Choose tokens greedily by attention, damped around each chosen one.

    A chosen token multiplies the score of a token at distance d cells by

        1 - strength * exp(-d**2 / (2 * radius**2)).

    Ranking by attention alone spends most of a small budget on the one object that draws most attention; here a second
    token on an object has to be worth more than the first one on another. The Gaussian decay is that of Soft-NMS (Bodla
    et al., arXiv 1704.04503), on the token grid in place of box overlap; that attention needs diversity beside it when
    few tokens stay is also the finding of VisPruner (arXiv 2412.01818) and DivPrune (arXiv 2503.02175).

    The radius follows the budget: radius = reach * sqrt(image tokens / keep) cells, a share of the distance between
    neighbours were the kept tokens spread evenly. A small budget goes further apart; a large one weights by attention.

    A video's tokens lie in space and time: the next frame is one cell away, and the root is the third.

    reach: > 0
    strength: 0 to 1; 0 is the plain attention ranking

    Raises ValueError for other values.
    """

    reach: float = 0.25
    strength: float = 0.9

    def __post_init__(self) -> None:
        if not self.reach > 0:
            raise ValueError(f"reach {self.reach!r}: expected more than 0")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength {self.strength!r}: expected 0 to 1")

    def select(self, scores: ImageScores, keep: int) -> Tensor:
        """See `Selection.select`; one row."""
        import torch

        check_keep(scores, keep)
        grid = scores.grid
        weights = scores.values.double().mean(dim=0).clamp_min(1e-300).log().view(grid)
        suppression = self._log_suppression(grid, self.reach * (scores.tokens / max(1, keep)) ** (1 / len(grid)))
        chosen = torch.zeros(grid, dtype=torch.bool)
        for _ in range(keep):
            cell = tuple(int(at) for at in torch.unravel_index(weights.argmax(), grid))
            weights += suppression[
                tuple(slice(size - 1 - at, 2 * size - 1 - at) for size, at in zip(grid, cell, strict=True))
            ]
            weights[cell] = -torch.inf
            chosen[cell] = True
        return chosen.flatten().nonzero().flatten()[None]

    def _log_suppression(self, grid: tuple[int, ...], radius: float) -> Tensor:
        """Return log factors by offset, [2 * size - 1] in each dimension, 0 centred."""
        import torch

        offsets = [torch.arange(1 - size, size, dtype=torch.float64) for size in grid]
        squares = torch.stack(torch.meshgrid(*offsets, indexing="ij")).square().sum(dim=0)
        nearness = torch.exp(-squares / (2 * radius**2))
        return torch.log1p(-self.strength * nearness).clamp_min(_LEAST)
