"""Write packed contexts into vLLM's KV cache, in each worker.

Keys and values go through each layer's own cache-update operation: the cache's layout and precision are the attention
backend's affair.
"""

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import safe_open

from lookonce_server.engines.vllm.connector.heads import heads_of
from lookonce_server.engines.vllm.connector.messages import LoadStep


class LoadError(Exception):
    """A context's file is gone or does not fit the model."""


class ContextLoader:
    """Load contexts into the KV cache.

    Args:
        layers: vLLM's attention layers, in the model's order.
        heads: key/value heads of the whole model.
        rank, ranks: this worker's tensor-parallel rank, and how many there are.
        block_size: tokens in a block of the cache.
    """

    def __init__(self, layers: Sequence[Any], *, heads: int, rank: int, ranks: int, block_size: int) -> None:
        self._layers = layers
        self._heads = heads
        self._own = heads_of(rank, ranks, heads)
        self._block_size = block_size

    def load(self, step: LoadStep) -> None:
        """Write one context's tokens into its request's blocks.

        Raises:
            LoadError: nothing was written. After any other error a part may have been.
        """
        start, end = step.start, step.load.tokens
        keys, values = (self._read(step, name) for name in ("keys", "values"))
        positions = torch.arange(start, end)
        blocks = torch.tensor(step.block_ids)[positions // self._block_size]
        slots = (blocks * self._block_size + positions % self._block_size).to(keys.device)
        for layer, key, value in zip(self._layers, keys, values, strict=True):
            layer.impl.do_kv_cache_update(layer, key, value, layer.kv_cache, slots)

    def _read(self, step: LoadStep, name: str) -> torch.Tensor:
        """Read this rank's heads, `[layers, tokens, kv_heads, head_dim]`."""
        cache = self._layers[0].kv_cache
        try:
            with safe_open(step.load.path, framework="pt") as file:
                tensor = file.get_slice(name)
                self._check(tensor.get_shape(), step.load.tokens)
                own: torch.Tensor = tensor[:, self._own, step.start : step.load.tokens]
        except Exception as error:  # safetensors raises its own kind and OSError; none may end the worker
            raise LoadError(f"a context cannot be loaded: {error}") from error
        return own.to(cache.device).transpose(1, 2).contiguous()

    def _check(self, shape: list[int], tokens: int) -> None:
        expected = [len(self._layers), self._heads, tokens, self._layers[0].head_size]
        if shape != expected:
            raise LoadError(f"its shape is {shape}, expected {expected}")
