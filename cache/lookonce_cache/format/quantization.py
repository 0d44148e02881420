"""Quantize keys and values for storage.

The cost and error of each precision are in docs/research/precision.md.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lookonce_cache.errors import InvalidContextError
from lookonce_cache.format.schemes import Float8, HadamardInt, MeanSubtracted, Part, Scheme, Shape, Unquantized
from lookonce_cache.identity import PRECISIONS

Role = Literal["keys", "values"]

NATIVE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_SCHEMES: dict[str, dict[Role, Scheme]] = {
    "native": {"keys": Unquantized(), "values": Unquantized()},
    "fp8": {"keys": Float8(), "values": Float8()},
    "int8": {"keys": MeanSubtracted(8), "values": HadamardInt(8)},
    "int4": {"keys": MeanSubtracted(4), "values": HadamardInt(4)},
}
assert tuple(_SCHEMES) == PRECISIONS
_CHUNK_BYTES = 2**20  # dequantized at a time on a CPU: fits its cache, and is large enough that calls cost little


def parts_of(role: Role, precision: str, dtype: torch.dtype, shape: Shape) -> tuple[Part, ...]:
    """Return the parts that store a tensor, by arithmetic alone: nothing is allocated.

    Args:
        role: "keys" or "values"; int8 and int4 store keys with a more precise scheme than values.
        precision: one of `PRECISIONS`.
        dtype: dtype of the tensor, float32, bfloat16 or float16.
        shape: shape of the tensor, `[layers, kv_heads, tokens, head_dim]`.

    Raises:
        InvalidContextError: the precision is unknown.
    """
    return _scheme(role, precision).parts(dtype, shape)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """Hold quantized keys or values.

    Parts are shared, never copied: do not write to them.

    Attributes:
        role: "keys" or "values".
        precision: one of `PRECISIONS`.
        dtype: dtype of the original tensor, float32, bfloat16 or float16.
        shape: shape of the original tensor, `[layers, kv_heads, tokens, head_dim]`.
        parts: the tensors that `parts_of` lists, on the CPU.

    Raises:
        InvalidContextError: a field has the wrong type, shape or range, or two contradict each other.
    """

    role: Role
    precision: str
    dtype: torch.dtype
    shape: Shape
    parts: tuple[Tensor, ...] = field(repr=False)

    def __post_init__(self) -> None:
        _check_like(self.role, self.dtype, self.shape)
        expected = parts_of(self.role, self.precision, self.dtype, self.shape)
        if len(self.parts) != len(expected):
            raise InvalidContextError(
                f"{self.role} in {self.precision} have {len(expected)} parts, not {len(self.parts)}"
            )
        for part, tensor in zip(expected, self.parts, strict=True):
            self._check_part(part, tensor)

    def _check_part(self, part: Part, tensor: object) -> None:
        name = f"{part.name} of {self.role} in {self.precision}"
        if not isinstance(tensor, Tensor):
            raise InvalidContextError(f"{name} must be a tensor, not {type(tensor).__name__}")
        if (tensor.dtype, tuple(tensor.shape)) != (part.dtype, part.shape):
            raise InvalidContextError(
                f"{name} must be {part.dtype} {part.shape}, not {tensor.dtype} {tuple(tensor.shape)}"
            )
        if tensor.device.type != "cpu":
            raise InvalidContextError(f"{name} must be on the CPU, not on {tensor.device}")

    def dequantize(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the tensor `[layers, kv_heads, tokens, head_dim]` on a device.

        The stored bytes are moved, and dequantized there. A native tensor that is on the device already is returned
        itself.
        """
        moved = tuple(part.to(device) for part in self.parts)
        if self.precision == "native":
            return moved[0]
        dense = torch.empty(self.shape, dtype=self.dtype, device=device)
        layer_bytes = dense[0].numel() * 4  # in float32, which schemes compute in
        chunk = max(1, _CHUNK_BYTES // layer_bytes) if dense.is_cpu else len(dense)
        scheme = _scheme(self.role, self.precision)
        with torch.no_grad():
            for layers, *parts in zip(*(torch.split(tensor, chunk) for tensor in (dense, *moved)), strict=True):
                layers.copy_(scheme.dequantize(tuple(parts), self.shape[-1]))
        return dense

    @property
    def nbytes(self) -> int:
        """The bytes of all parts."""
        return sum(part.nbytes for part in self.parts)


def quantize(tensor: Tensor, role: Role, precision: str) -> QuantizedTensor:
    """Quantize keys or values, on their device. Native ones on the CPU are not copied.

    Args:
        tensor: `[layers, kv_heads, tokens, head_dim]`, float32, bfloat16 or float16.
        role: "keys" or "values".
        precision: one of `PRECISIONS`.

    Raises:
        InvalidContextError: an unknown precision, another dtype or shape, or, in any precision but native, a number
            that is not finite.
    """
    scheme = _scheme(role, precision)
    shape = _check_like(role, tensor.dtype, tuple(tensor.shape))
    if precision != "native" and not tensor.isfinite().all():
        raise InvalidContextError(f"{role} have numbers that are not finite, which {precision} cannot store")
    with torch.no_grad():
        parts = tuple(part.cpu() for part in scheme.quantize(tensor))
    return QuantizedTensor(role, precision, tensor.dtype, shape, parts)


def _scheme(role: Role, precision: str) -> Scheme:
    if precision not in _SCHEMES:
        raise InvalidContextError(f"precision: {precision!r}; accepted: {', '.join(PRECISIONS)}")
    return _SCHEMES[precision][role]


def _check_like(role: Role, dtype: torch.dtype, shape: tuple[int, ...]) -> Shape:
    if dtype not in NATIVE_DTYPES:
        raise InvalidContextError(f"{role} must be {' or '.join(map(str, NATIVE_DTYPES))}, not {dtype}")
    if len(shape) != 4 or min(shape) <= 0:
        raise InvalidContextError(f"{role} must have 4 dimensions and not be empty, their shape is {shape}")
    layers, heads, tokens, head_dim = shape
    return layers, heads, tokens, head_dim
