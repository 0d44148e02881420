"""Knock attention out: hide some tokens from others, in some layers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from lookonce_pruning.attention import AttentionCall, Observing, boolean_mask


@dataclass(frozen=True, eq=False)
class Blocked:
    """Rows that do not look at columns, in some layers.

    Their logits are minus infinity.

    rows: absolute positions in the sequence, not in the image; an open end is `sys.maxsize`
    columns: [columns], int64, absolute positions
    layers: indices of layers
    """

    rows: range
    columns: Tensor
    layers: Collection[int]


class Knockout(Observing):
    """Block attention inside a block: each row of the batch has its own case.

    Run the model in the same thread.

    The forward pass is the ordinary one, by the same attention function that the server records with; only the mask
    differs. So the cases of one image share a batch: they have the same tokens. After Geva et al., arXiv 2304.14767,
    section 4 ("attention knockout"), as Kaduri et al., arXiv 2411.17491, and Zhang et al., arXiv 2411.18620, use it.

    model: any `*ForConditionalGeneration`
    cases: what is blocked, one sequence a row of the batch; an empty one blocks nothing

    Raises ValueError in the forward pass for a batch of another size, and for a token left with nothing to look at;
    RecordingError when the model's attention is being observed already.
    """

    def __init__(self, model: PreTrainedModel, cases: Sequence[Sequence[Blocked]]) -> None:
        super().__init__(model)
        self._cases = cases

    def observe(self, layer: int, call: AttentionCall) -> Tensor | None:
        """Return the mask without the columns blocked in this layer."""
        batch, _, new, _ = call.query.shape
        total = call.key.shape[2]
        if batch != len(self._cases):
            raise ValueError(f"a batch of {batch} was run; expected one row for each of the {len(self._cases)} cases")
        blocked = [(row, block) for row, case in enumerate(self._cases) for block in case if layer in block.layers]
        if not blocked:
            return call.mask
        mask = boolean_mask(call.mask, new, total, call.query.device).expand(batch, 1, new, total).clone()
        for row, block in blocked:
            first, last = (min(max(edge - (total - new), 0), new) for edge in (block.rows.start, block.rows.stop))
            columns = block.columns[block.columns < total].to(mask.device)
            mask[row, 0, first:last, columns] = False
        if not mask.any(dim=-1).all():
            raise ValueError(f"layer {layer}: a token is left with nothing to look at")
        return mask
