"""Attention joined with coverage: a chosen token makes its neighbours less wanted."""

from __future__ import annotations

import math
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
        height, width = scores.grid
        weights = scores.values.double().mean(dim=0).clamp_min(1e-300).log().view(height, width)
        suppression = self._log_suppression(height, width, self.reach * math.sqrt(scores.tokens / max(1, keep)))
        chosen = torch.zeros(height, width, dtype=torch.bool)
        for _ in range(keep):
            row, column = divmod(int(weights.argmax()), width)
            weights += suppression[height - 1 - row : 2 * height - 1 - row, width - 1 - column : 2 * width - 1 - column]
            weights[row, column] = -torch.inf
            chosen[row, column] = True
        return chosen.flatten().nonzero().flatten()[None]

    def _log_suppression(self, height: int, width: int, radius: float) -> Tensor:
        """Return log factors by offset, [2 * height - 1, 2 * width - 1], 0 centred."""
        import torch

        rows = torch.arange(1 - height, height, dtype=torch.float64)[:, None]
        columns = torch.arange(1 - width, width, dtype=torch.float64)
        nearness = torch.exp(-(rows**2 + columns**2) / (2 * radius**2))
        return torch.log1p(-self.strength * nearness).clamp_min(_LEAST)
