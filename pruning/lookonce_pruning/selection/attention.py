"""The tokens that drew the most attention, the same ones in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lookonce_pruning.selection.base import check_keep, top

if TYPE_CHECKING:
    from torch import Tensor

    from lookonce_pruning.scores import ImageScores


class Attention:
    """Keep the top-k of the window's mean: Kaduri et al., arXiv 2411.17491."""

    def select(self, scores: ImageScores, keep: int) -> Tensor:
        """See `Selection.select`; one row."""
        check_keep(scores, keep)
        return top(scores.values.mean(dim=0, keepdim=True), keep)
