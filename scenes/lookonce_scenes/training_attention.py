"""Attention for training, registered with transformers by name.

Plain matrix products are 2-4 times faster than SDPA's backward pass at this size on a CPU, and pictures that see
neither each other nor the questions are attended to apart, which saves most of the work of several.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, LlavaForConditionalGeneration

from lookonce_scenes.tokenizer import IMAGE_TOKENS

Attention = Callable[..., tuple[Tensor, None]]


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    # bfloat16 throughout: autocast would take the softmax to float32 and back, a third of a step's time at this size.
    with torch.autocast(query.device.type, enabled=False):
        query, key, value = (query * scaling).bfloat16(), key.bfloat16(), value.bfloat16()
        scores = torch.matmul(query, key.transpose(-1, -2))
        if mask is not None:
            scores += mask
        return torch.matmul(torch.softmax(scores, -1), value)


def _tower(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    return _attend(query, key, value, None, scaling).transpose(1, 2), None


def _packed(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attend with an additive mask, `[batch, 1, masked rows, rows]`.

    The rows before the masked ones, if any, are a head and pictures that see the head and themselves alone.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    before = query.shape[2] - mask.shape[2]
    masked = _attend(query[:, :, before:], key, value, mask, scaling)
    if before:
        pictures = _pictures(query[:, :, :before], key[:, :, :before], value[:, :, :before], scaling)
        masked = torch.cat([pictures, masked], 2)
    return masked.transpose(1, 2), None


def _pictures(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Attend causally in a head, and in each picture behind it: `[batch, heads, head + pictures x tokens, size]`."""
    count, head = divmod(query.shape[2], IMAGE_TOKENS)
    causal = torch.full((head + IMAGE_TOKENS,) * 2, -1e4, device=query.device, dtype=torch.bfloat16).triu(1)
    first = _attend(query[:, :, :head], key[:, :, :head], value[:, :, :head], causal[:head, :head], scaling)
    if count == 1:
        return torch.cat([first, _attend(query[:, :, head:], key, value, causal[head:], scaling)], 2)
    folded = [x[:, :, head:].unflatten(2, (count, IMAGE_TOKENS)) for x in (query, key, value)]
    heads = [x[:, :, None, :head].expand(-1, -1, count, -1, -1) for x in (key, value)]
    keys, values = (torch.cat(pair, 3) for pair in zip(heads, folded[1:], strict=True))
    return torch.cat([first, _attend(folded[0], keys, values, causal[head:], scaling).flatten(2, 3)], 2)


def use_training_attention(model: LlavaForConditionalGeneration) -> None:
    """Switch a model to this attention.

    The configuration that `save_checkpoint` writes does not name an implementation.
    """
    AttentionInterface.register("lookonce-training-tower", _tower)
    AttentionInterface.register("lookonce-training-packed", _packed)
    model.model.vision_tower.config._attn_implementation = "lookonce-training-tower"
    model.model.language_model.config._attn_implementation = "lookonce-training-packed"
