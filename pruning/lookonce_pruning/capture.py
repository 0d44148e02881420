"""Keep one layer of a describe pass, and compute softmax rows from it."""

from __future__ import annotations

import torch
from torch import Tensor

from lookonce_pruning.attention import AttentionCall, boolean_mask
from lookonce_pruning.errors import RecordingError, UnsupportedModelError

_ROWS_AT_ONCE = 256  # bounds the float32 logits in memory to [heads, 256, tokens]


class LayerCapture:
    """Keep references to one layer's queries and keys while the model runs.

    Invariant: the cache is append-only, so that a call with `new` queries and `total` keys holds the absolute rows
    total - new to total - 1, and each call goes on where the one before ended. Static, sliding-window and second caches
    break it, and are refused with RecordingError. A layer with a sliding window keeps all keys too, and masks them.

    first_row: rows before it are not kept
    """

    def __init__(self, first_row: int) -> None:
        self.first_row = first_row
        self.seen = 0  # absolute rows observed so far
        self._queries: list[Tensor] = []  # each [heads, rows, head_dim]
        self._key: Tensor | None = None  # [kv_heads, seen, head_dim], the newest
        self._scaling = 0.0
        self._window: int | None = None

    def add(self, call: AttentionCall) -> None:
        """Take one call, of a batch of one."""
        query, key = call.query, call.key
        batch, _, new, head_dim = query.shape
        total = key.shape[2]
        if batch != 1:
            raise RecordingError(f"a batch of {batch} was run; one image is described at a time")
        if total - new != self.seen:
            raise RecordingError(
                f"{new} queries came with {total} keys after {self.seen} tokens: expected one cache that starts empty"
                " and grows (static, sliding-window and reused caches cannot be recorded)"
            )
        skip = max(0, self.first_row - self.seen)
        if skip < new:
            if call.mask is not None:
                _check_causal(call.mask[:, :, skip:], total - new + skip, call.window)
            # A copy of a part lets go of the whole prompt's queries; a decoded row is already all there is.
            self._queries.append(query[0, :, skip:].clone() if skip else query[0])
        self.seen = total
        self._key = key[0]
        self._scaling = head_dim**-0.5 if call.scaling is None else call.scaling
        self._window = call.window

    def rows(self, rows: range, columns: Tensor) -> Tensor:
        """Return softmax rows, mean over heads: [rows, columns], float32.

        They are computed as eager attention does.

        rows: absolute rows, from first_row on, all seen
        columns: [columns], int64

        Raises RecordingError for rows that were not recorded.
        """
        if self._key is None or not self.first_row <= rows.start < rows.stop <= self.seen:
            raise RecordingError(f"rows {rows} asked for, of which {self.first_row} to {self.seen} were recorded")
        queries = torch.cat(self._queries, dim=1)[:, rows.start - self.first_row : rows.stop - self.first_row]
        return attention_rows(
            queries, self._key[:, : rows.stop], rows.start, columns, self._scaling, window=self._window
        )


def attention_rows(
    queries: Tensor, keys: Tensor, first_row: int, columns: Tensor, scaling: float, *, window: int | None = None
) -> Tensor:
    """Return causal softmax rows, mean over heads: [rows, columns], float32.

    They are computed as eager attention does.

    queries: [heads, rows, head_dim], after RoPE, of absolute rows first_row, first_row + 1, ...
    keys: [kv_heads, first_row + rows, head_dim], after RoPE
    columns: [columns], int64
    scaling: of the logits
    window: tokens that a row sees, itself among them; None: all before it
    """
    keys = keys.float()
    columns = columns.to(keys.device)
    blocks = []
    for start in range(0, queries.shape[1], _ROWS_AT_ONCE):
        block = queries[:, start : start + _ROWS_AT_ONCE].float()
        weights = _softmax_rows(block, keys, first_row + start, scaling, window)
        blocks.append(weights[..., columns].mean(dim=0))
    return torch.cat(blocks)


def _softmax_rows(query: Tensor, key: Tensor, first_row: int, scaling: float, window: int | None) -> Tensor:
    """Return causal softmax rows, [heads, rows, total].

    query: [heads, rows, head_dim]; key: [kv_heads, total, head_dim]
    """
    heads, rows, head_dim = query.shape
    kv_heads, total, _ = key.shape
    grouped = query.reshape(kv_heads, heads // kv_heads * rows, head_dim)  # query heads of one kv head are neighbours
    logits = (grouped @ key.transpose(1, 2) * scaling).view(heads, rows, total)
    return logits.masked_fill_(~_visible(first_row, rows, total, window, key.device), -torch.inf).softmax(dim=-1)


def _visible(first_row: int, rows: int, total: int, window: int | None, device: torch.device) -> Tensor:
    """Return which columns causal rows see, within a sliding window: [rows, total]."""
    distance = torch.arange(first_row, first_row + rows, device=device)[:, None] - torch.arange(total, device=device)
    return (distance >= 0) & (distance < (total if window is None else window))


def _check_causal(attention_mask: Tensor, first_row: int, window: int | None) -> None:
    """Refuse padding, and text tokens that see ahead as in a prefix-LM.

    What image tokens see of each other is their own affair: their rows score nothing.

    attention_mask: [1, 1, rows, total], of the rows that score
    """
    rows, total = attention_mask.shape[-2:]
    seen = boolean_mask(attention_mask, rows, total, attention_mask.device)[0, 0]
    if not torch.equal(seen, _visible(first_row, rows, total, window, attention_mask.device)):
        raise UnsupportedModelError(
            "tokens after the image see other tokens than those before them: its attention mask is not causal (a"
            " prefix-LM's, or padding)"
        )
