"""Attention joined with coverage: a chosen token makes its neighbours less wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookonce_pruning.selection.base import check_keep

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lookonce_pruning.scores import ImageScores

    Suppression = Callable[[int], Tensor]

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

    Of a picture that is shown in tiles, tokens are as far apart as what they show: from the middle of one to that of
    the other, in cells of the block with the most of them, whichever tiles they are of. So a token of the thumbnail is
    near those of the tiles that show the same. Tokens that show nothing are near none.

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
        weights = scores.values.double().mean(dim=0).clamp_min(1e-300).log()
        suppression = self._on_grid(scores, keep) if scores.layout is None else self._on_layout(scores, keep)
        chosen = torch.zeros(scores.tokens, dtype=torch.bool)
        for _ in range(keep):
            token = int(weights.argmax())
            weights += suppression(token)
            weights[token] = -torch.inf
            chosen[token] = True
        return chosen.nonzero().flatten()[None]

    def _radius(self, cells: int, keep: int, dimensions: int) -> float:
        return self.reach * float((cells / max(1, keep)) ** (1 / dimensions))

    def _log_factors(self, squares: Tensor, radius: float) -> Tensor:
        """Return log factors by squared distance, in cells."""
        import torch

        nearness = torch.exp(-squares / (2 * radius**2))
        return torch.log1p(-self.strength * nearness).clamp_min(_LEAST)

    def _on_grid(self, scores: ImageScores, keep: int) -> Suppression:
        """Return the log factors of all tokens around a chosen one, [tokens], read from one table of offsets."""
        import torch

        grid = scores.grid
        offsets = [torch.arange(1 - size, size, dtype=torch.float64) for size in grid]
        squares = torch.stack(torch.meshgrid(*offsets, indexing="ij")).square().sum(dim=0)
        table = self._log_factors(squares, self._radius(scores.tokens, keep, len(grid)))

        def suppression(token: int) -> Tensor:
            cell = torch.unravel_index(torch.tensor(token), grid)
            return table[
                tuple(slice(size - 1 - int(at), 2 * size - 1 - int(at)) for size, at in zip(grid, cell, strict=True))
            ].flatten()

        return suppression

    def _on_layout(self, scores: ImageScores, keep: int) -> Suppression:
        """Return the log factors of all tokens around a chosen one, [tokens], by what they show."""
        import torch

        layout, frames = scores.layout, scores.frames
        assert layout is not None
        largest = max(layout.blocks, key=lambda block: block.tokens)
        boxes = layout.boxes()
        is_placed = (boxes[:, 2] > boxes[:, 0]).repeat(frames)
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2 / torch.tensor(largest.cell, dtype=torch.float64)
        times = torch.arange(frames, dtype=torch.float64).repeat_interleave(layout.tokens)
        points = torch.cat([times[:, None], middles.repeat(frames, 1)], dim=1)
        cells = frames * largest.tile_rows * largest.rows * largest.tile_columns * largest.columns
        radius = self._radius(cells, keep, len(scores.grid))

        def suppression(token: int) -> Tensor:
            near = is_placed & is_placed[token]
            return self._log_factors((points - points[token]).square().sum(dim=1), radius).where(near, 0.0)

        return suppression
