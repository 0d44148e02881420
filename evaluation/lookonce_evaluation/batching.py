"""Several continuations of one image, or of one context, in one forward pass."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from lookonce_server.engines.transformers.model import ModelRunner


class Continued(NamedTuple):
    """A batch in work."""

    cache: DynamicCache
    next_position: int  # RoPE position of each row's next token
    logits: Tensor  # [batch, tokens given, vocabulary], of the token after each


def expanded(runner: ModelRunner, keys: Tensor, values: Tensor, batch: int) -> DynamicCache:
    """A cache in which every row of the batch starts with the same keys and values.

    Args:
        runner: runs the model.
        keys: `[layers, kv_heads, tokens, head_dim]`, after RoPE.
        values: like keys.
        batch: rows.
    """
    cache = DynamicCache()
    for layer in range(runner.num_layers):
        cache.update(keys[layer].expand(batch, -1, -1, -1), values[layer].expand(batch, -1, -1, -1), layer)
    return cache


@torch.inference_mode()
def extend(runner: ModelRunner, cache: DynamicCache, next_position: int, ids: Tensor) -> Continued:
    """Run `ids` `[batch, tokens]` after what the cache holds; padding belongs at the end, where nobody looks back."""
    count = ids.shape[1]
    output = runner.model(
        input_ids=ids.to(runner.model.device),
        position_ids=runner.positions(next_position, count),
        past_key_values=cache,
        use_cache=True,
    )
    return Continued(cache, next_position + count, output.logits)
