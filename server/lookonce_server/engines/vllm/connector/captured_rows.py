"""Hold what a forward pass showed of one captured prompt."""

import torch
from torch import Tensor

from lookonce_server.engines.description import LayerRows


class CaptureError(Exception):
    """The capture is not whole, or cannot be compressed."""


class CapturedRows:
    """The rows of one prompt that a rank has seen, each part `[rows, heads, head_dim]`.

    Queries stay on the device: they are those of the description, in a few layers. Keys and values, which are those of
    a whole prompt in every layer where they cannot be read from the cache, go to the memory of the host.

    Args:
        first: rows before it were not computed by this request.
        layers: how many there are.
    """

    def __init__(self, first: int, layers: int) -> None:
        self.first = first
        self.next = first  # the row that comes next
        self._keys: list[list[Tensor]] = [[] for _ in range(layers)]
        self._values: list[list[Tensor]] = [[] for _ in range(layers)]
        self._queries: list[list[Tensor]] = [[] for _ in range(layers)]

    def add_rows(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Copy keys and values to the host."""
        self._keys[layer].append(keys.to("cpu", copy=True))
        self._values[layer].append(values.to("cpu", copy=True))

    def add_queries(self, layer: int, queries: Tensor) -> None:
        """Copy queries of rows that score."""
        self._queries[layer].append(queries.clone())

    def queries_of(self, layer: int, expected: int) -> Tensor:
        """Return a layer's queries, `[heads, rows, head_dim]`.

        Raises:
            CaptureError: there are not as many as expected.
        """
        return _join(self._queries[layer], layer, expected)

    def layer_rows(self, layer: int, positions: Tensor, total: int) -> LayerRows:
        """Return a layer's keys and values, on the host.

        Args:
            layer: its index.
            positions: [rows], int64: in the prompt.
            total: tokens of the prompt.

        Raises:
            CaptureError: not all rows were seen.
        """
        rows = total - self.first
        keys, values = (_join(parts[layer], layer, rows) for parts in (self._keys, self._values))
        return LayerRows(keys[:, positions - self.first], values[:, positions - self.first])

    @property
    def nbytes(self) -> int:
        """Count the bytes that are held."""
        parts = (*self._keys, *self._values, *self._queries)
        return sum(part.nbytes for layer in parts for part in layer)


def _join(parts: list[Tensor], layer: int, expected: int) -> Tensor:
    rows = sum(len(part) for part in parts)
    if rows != expected:
        raise CaptureError(f"layer {layer} was seen at {rows} of {expected} tokens")
    return torch.cat(parts).transpose(0, 1)
