"""The parts that selections share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from lookonce_pruning.scores import ImageScores


class Selection(Protocol):
    """Decide which image tokens stay."""

    def select(self, scores: ImageScores, keep: int) -> Tensor:
        """Return `keep` distinct image tokens, [rows, keep], int64, ascending.

        rows = 1 (the same tokens in every layer) or the model's number of layers (each layer its own).
        Raises ValueError unless 0 <= keep <= image tokens.
        """
        ...


def check_keep(scores: ImageScores, keep: int) -> None:
    """Raise ValueError unless 0 <= keep <= image tokens."""
    if not 0 <= keep <= scores.tokens:
        raise ValueError(f"keep {keep}: expected 0 to {scores.tokens}, the number of image tokens")


def top(values: Tensor, keep: int) -> Tensor:
    """Return the `keep` largest of values [rows, n], ascending: [rows, keep]."""
    return values.argsort(dim=1, descending=True, stable=True)[:, :keep].sort(dim=1).values
