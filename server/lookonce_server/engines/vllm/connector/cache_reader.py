"""Read keys and values out of vLLM's paged KV cache, in each worker.

vLLM has an operation that writes there, and none that reads: where an element lies is its attention backend's affair.
So that is found out: every element's number is written into a block through the layer's own cache-update operation, and
looked for. That is a few writes at the start, and right for any backend that keeps what it is given as it is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

_BASE = 128  # of the digits in which numbers are written: any dtype holds integers up to 256


class _Layout(NamedTuple):
    """The places of a block's elements in a layer's cache."""

    dim: int  # of the cache, that counts blocks
    parts: int  # blocks of the kernels in one of the scheduler's
    keys: Tensor  # [tokens of a block, kv_heads, head_dim], int64: places among the block's elements
    values: Tensor  # like keys


class CacheReader:
    """Read keys and values of tokens as the attention layers were called with them.

    Args:
        layers: vLLM's attention layers, in the model's order.
        layout: of the cache of each.
        block_size: tokens in a block of the cache.
    """

    def __init__(self, layers: Sequence[Any], layout: _Layout, block_size: int) -> None:
        self._layers = layers
        self._layout = layout
        self._block_size = block_size

    @classmethod
    @torch.no_grad()
    def of(cls, layers: Sequence[Any], *, dtype: torch.dtype, num_blocks: int, block_size: int) -> Self | None:
        """Return a reader; None if the cache keeps keys and values in another form, as a quantised one does.

        The cache is written to, and restored: nobody else may use it meanwhile.

        Args:
            layers: vLLM's attention layers, in the model's order.
            dtype: arithmetic of the model.
            num_blocks: of the cache.
            block_size: tokens in a block.
        """
        cache = layers[0].kv_cache
        if any((layer.kv_cache.dtype, layer.kv_cache.shape) != (dtype, cache.shape) for layer in layers):
            return None
        for dim, size in enumerate(cache.shape):
            parts = size // num_blocks
            if size % num_blocks or not parts or block_size % parts:
                continue
            with _restored(layers, dim, parts):
                layout = _find_layout(layers[0], dim, parts, block_size)
                reader = cls(layers, layout, block_size) if layout else None
                if reader and all(reader._is_exact(index, num_blocks) for index in range(len(layers))):
                    return reader
        return None

    def keys(self, layer: int, block_ids: Sequence[int], positions: Tensor) -> Tensor:
        """Read the keys of some tokens, `[kv_heads, tokens, head_dim]`.

        Args:
            layer: index of the layer.
            block_ids: of the request.
            positions: [tokens], int64, on the CPU: of the tokens in the request.
        """
        return self._read(layer, self._layout.keys, block_ids, positions)

    def values(self, layer: int, block_ids: Sequence[int], positions: Tensor) -> Tensor:
        """Read the values of some tokens; see `keys`."""
        return self._read(layer, self._layout.values, block_ids, positions)

    def _read(self, layer: int, places: Tensor, block_ids: Sequence[int], positions: Tensor) -> Tensor:
        cache = self._layers[layer].kv_cache
        needed, block = torch.unique(positions // self._block_size, return_inverse=True)
        blocks = _blocks(cache, torch.tensor(block_ids)[needed], self._layout)
        starts = (block * blocks.shape[1]).to(cache.device)[:, None, None]
        index = places[(positions % self._block_size).to(cache.device)] + starts
        return blocks.flatten()[index].transpose(0, 1)

    def _is_exact(self, index: int, num_blocks: int) -> bool:
        """Write made-up rows to the last and the first block of a layer, and read them back."""
        layer = self._layers[index]
        shape = (2 * self._block_size, *self._layout.keys.shape[1:])
        noise = torch.Generator().manual_seed(index)
        key, value = (torch.randn(shape, generator=noise).to(layer.kv_cache) for _ in range(2))
        block_ids, positions = (num_blocks - 1, 0), torch.arange(len(key))
        slots = torch.tensor(block_ids)[positions // self._block_size] * self._block_size + positions % self._block_size
        _write(layer, key, value, slots)
        found = (read(index, block_ids, positions).transpose(0, 1) for read in (self.keys, self.values))
        return all(torch.equal(read, written) for read, written in zip(found, (key, value), strict=True))


def _blocks(cache: Tensor, block_ids: Tensor, layout: _Layout) -> Tensor:
    """Copy whole blocks of a layer, `[blocks, elements]`."""
    parts = block_ids[:, None] * layout.parts + torch.arange(layout.parts)
    copied = cache.index_select(layout.dim, parts.flatten().to(cache.device))
    return copied.movedim(layout.dim, 0).reshape(len(block_ids), -1)


def _write(layer: Any, key: Tensor, value: Tensor, slots: Tensor) -> None:
    """Write rows, each `[tokens, kv_heads, head_dim]`, to slots of the cache."""
    layer.impl.do_kv_cache_update(layer, key, value, layer.kv_cache, slots.to(layer.kv_cache.device))


def _find_layout(layer: Any, dim: int, parts: int, block_size: int) -> _Layout | None:
    """Find the places of a block's elements; None if they are not kept as they are."""
    cache = layer.kv_cache
    shape = (2, block_size, layer.num_kv_heads, layer.head_size)  # keys, then values
    numbers = torch.arange(2 * block_size * layer.num_kv_heads * layer.head_size)
    nowhere = torch.empty(0, dtype=torch.int64)
    empty = _Layout(dim, parts, nowhere, nowhere)
    found, scale = torch.zeros(()), 1
    while scale <= len(numbers):
        digits = (numbers // scale % _BASE + 1).view(shape).to(cache)  # 0 is none
        cache.narrow(dim, 0, parts).zero_()
        _write(layer, digits[0], digits[1], torch.arange(block_size))
        seen = _blocks(cache, torch.zeros(1, dtype=torch.int64), empty)[0].double().cpu()
        found = found + torch.where(seen > 0, (seen - 1) * scale, -float("inf"))
        scale *= _BASE
    places = found.isfinite().nonzero().flatten()  # others hold no element
    order = found[places].argsort()
    if not torch.equal(found[places][order], numbers.double()):
        return None
    keys, values = places[order].view(shape).to(cache.device)
    return _Layout(dim, parts, keys, values)


@contextmanager
def _restored(layers: Sequence[Any], dim: int, parts: int) -> Iterator[None]:
    """Restore the first and the last block of each layer's cache afterwards."""
    blocks = [
        cache.narrow(dim, start, parts)
        for cache in (layer.kv_cache for layer in layers)
        for start in (0, cache.shape[dim] - parts)
    ]
    kept = [block.clone() for block in blocks]
    try:
        yield
    finally:
        for block, content in zip(blocks, kept, strict=True):
            block.copy_(content)
