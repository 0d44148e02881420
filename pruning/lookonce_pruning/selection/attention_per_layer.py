"""The tokens that drew the most attention in each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lookonce_pruning.selection.base import check_keep, top

if TYPE_CHECKING:
    from torch import Tensor

    from lookonce_pruning.scores import ImageScores


class AttentionPerLayer:
    """Keep each layer's own top-k, as the code of Kaduri et al., arXiv 2411.17491."""

    def select(self, scores: ImageScores, keep: int) -> Tensor:
        """See `Selection.select`; a row for each layer.

        Raises ValueError unless the scoring window is all layers.
        """
        check_keep(scores, keep)
        if scores.layers != tuple(range(scores.num_layers)):
            raise ValueError(
                f"attention-per-layer ranks in every layer: record with window 'all' (the scores cover"
                f" {len(scores.layers)} of {scores.num_layers} layers)"
            )
        return top(scores.values, keep)
