"""Tokens drawn at random: the baseline that attention must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookonce_pruning.selection.base import check_keep

if TYPE_CHECKING:
    from torch import Tensor

    from lookonce_pruning.scores import ImageScores


@dataclass(frozen=True)
class Random:
    """Draw tokens with equal chances; a seed, count and keep give the same ones."""

    seed: int = 0

    def select(self, scores: ImageScores, keep: int) -> Tensor:
        """See `Selection.select`; one row."""
        import torch

        check_keep(scores, keep)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(scores.tokens, generator=generator)[:keep].sort().values[None]
