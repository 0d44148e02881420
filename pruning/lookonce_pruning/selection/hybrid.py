"""Spend half a budget on attention, and half without a look at it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookonce_pruning.selection.base import Selection, check_keep, top
from lookonce_pruning.selection.random import Random
from lookonce_pruning.selection.uniform import Uniform

if TYPE_CHECKING:
    from torch import Tensor

    from lookonce_pruning.scores import ImageScores


@dataclass(frozen=True)
class AttentionUniform:
    """Keep an even lattice, and the tokens beside it with most attention.

    share: of the budget that goes by attention, 0 to 1

    Raises ValueError for other values.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        _check(self.share)

    def select(self, scores: ImageScores, keep: int) -> Tensor:
        """See `Selection.select`; one row."""
        return _add_best(Uniform(), self.share, scores, keep)


@dataclass(frozen=True)
class AttentionRandom:
    """Keep a seeded draw, and the tokens beside it with most attention.

    See `Random` for the seed.

    share: of the budget that goes by attention, 0 to 1

    Raises ValueError for other values.
    """

    share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.share)

    def select(self, scores: ImageScores, keep: int) -> Tensor:
        """See `Selection.select`; one row."""
        return _add_best(Random(self.seed), self.share, scores, keep)


def _add_best(first: Selection, share: float, scores: ImageScores, keep: int) -> Tensor:
    """Add to a selection the tokens with most attention that it leaves."""
    check_keep(scores, keep)
    scored = scores.values.mean(dim=0, keepdim=True)  # a new tensor
    scored[:, first.select(scores, round((1 - share) * keep))[0]] = math.inf
    return top(scored, keep)


def _check(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"share {share!r}: expected 0 to 1")
