"""Pack the KV cache of a describe pass into a context."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_pruning.rope import Rope, rotate_keys


class PackedContext(NamedTuple):
    """A compressed context: the position of the next token is `tokens`."""

    keys: Tensor  # [layers, kv_heads, tokens, head_dim], after RoPE
    values: Tensor  # [layers, kv_heads, tokens, head_dim]
    tokens: int
    position_shift: int  # positions by which the keys were rotated


def compress(
    keys: Tensor,
    values: Tensor,
    *,
    prompt_length: int,
    image_positions: Tensor,
    kept: Tensor,
    rope: Rope,
    next_position: int,
) -> PackedContext:
    """Keep the prompt's text and the kept image tokens, at packed positions.

    They stay in their order, and every key is rotated by tokens - next_position.

    The description is dropped with everything else from prompt_length on; to keep it, give the longer length and the
    next_position that goes with it.

    keys, values: [layers, kv_heads, >= prompt_length, head_dim], keys after RoPE
    prompt_length: tokens of the prompt
    image_positions: [image tokens], int64, ascending: where the image tokens stand in the prompt
    kept: [1 or layers, keep], int64, ascending: which of the image tokens stay, for all layers or for each
    rope: of the model, see `find_rope`
    next_position: the RoPE position a text token after the prompt would have had (for M-RoPE the largest plus one)

    Raises ValueError when the shapes do not agree.
    """
    layers, length = keys.shape[0], keys.shape[2]
    if not len(image_positions) < prompt_length <= length:
        raise ValueError(f"prompt_length {prompt_length}: expected {len(image_positions)} < prompt_length <= {length}")
    if kept.ndim != 2 or kept.shape[0] not in (1, layers):
        raise ValueError(f"kept {tuple(kept.shape)}: expected [1, keep] or [{layers}, keep]")
    columns = kept_columns(prompt_length, image_positions, kept).to(keys.device)
    index = columns[:, None, :, None]  # [1 or layers, 1, tokens, 1]
    tokens = columns.shape[1]
    position_shift = tokens - next_position
    packed = rotate_keys(torch.take_along_dim(keys, index, dim=2), rope, position_shift)
    return PackedContext(packed, torch.take_along_dim(values, index, dim=2), tokens, position_shift)


def kept_columns(prompt_length: int, image_positions: Tensor, kept: Tensor) -> Tensor:
    """Return the prompt positions that stay, [1 or layers, tokens], ascending, on the CPU.

    The arguments are those of `compress`.
    """
    image_positions, kept = image_positions.cpu(), kept.cpu()
    is_text = torch.ones(prompt_length, dtype=torch.bool)
    is_text[image_positions] = False
    text = is_text.nonzero().flatten().expand(kept.shape[0], -1)
    return torch.cat((text, image_positions[kept]), dim=1).sort(dim=1).values
