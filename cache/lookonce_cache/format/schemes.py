"""Define the quantization schemes; `quantization` maps precisions to them.

A scheme treats each layer and head on its own. It stores numbers relative to the peak, the largest magnitude, and
returns none above it: so nothing overflows, in any dtype.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Shape = tuple[int, int, int, int]
"""Shape of keys or values: layers, kv_heads, tokens, head_dim."""

MAX_BLOCK = 32  # channels that are rotated together
STEPS_PER_OCTAVE = 16
CLIP_RATIOS = (1.0, 0.9, 0.8, 0.7)
"""Shares of a vector's largest magnitude that are tried as the magnitude of the largest code."""


class Part(NamedTuple):
    """The name, dtype and shape of one stored tensor."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class Scheme(Protocol):
    """Quantize a tensor `[layers, kv_heads, tokens, head_dim]` into parts, and back."""

    def parts(self, dtype: torch.dtype, shape: Shape) -> tuple[Part, ...]:
        """Return the parts that store a tensor, by arithmetic alone."""

    def quantize(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Quantize a finite tensor, on its device."""

    def dequantize(self, parts: tuple[Tensor, ...], head_dim: int) -> Tensor:
        """Dequantize parts, or some layers of them, on their device."""


class Unquantized:
    """Store the tensor itself."""

    def parts(self, dtype: torch.dtype, shape: Shape) -> tuple[Part, ...]:
        """List parts as `Scheme.parts` says."""
        return (Part("codes", dtype, shape),)

    def quantize(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Quantize as `Scheme.quantize` says."""
        return (tensor,)

    def dequantize(self, parts: tuple[Tensor, ...], head_dim: int) -> Tensor:
        """Dequantize as `Scheme.dequantize` says."""
        return parts[0]


class Float8:
    """Store E4M3 floats relative to the peak of each token's vector.

    The format is in Micikevicius et al., arXiv 2209.05433, section 3. The scale puts the peak on its largest number,
    448. Elements far below the peak keep their relative precision of four bits.
    """

    largest = 448.0

    def parts(self, dtype: torch.dtype, shape: Shape) -> tuple[Part, ...]:
        """List parts as `Scheme.parts` says."""
        return Part("codes", torch.float8_e4m3fn, shape), Part("scales", torch.float32, shape[:3])

    def quantize(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Quantize as `Scheme.quantize` says."""
        floats = tensor.float()
        peaks = floats.abs().amax(-1)
        relative = floats / _nonzero(peaks)[..., None] * self.largest
        return relative.to(torch.float8_e4m3fn), peaks

    def dequantize(self, parts: tuple[Tensor, ...], head_dim: int) -> Tensor:
        """Dequantize as `Scheme.dequantize` says."""
        codes, peaks = parts
        floats = _float8_numbers(codes.device).index_select(0, codes.view(torch.uint8).flatten().int())
        return floats.view(codes.shape).div_(self.largest).mul_(peaks[..., None])


@dataclass(frozen=True)
class HadamardInt:
    """Rotate the head dimension, and store integers with one scale per token.

    The rotation is a Hadamard matrix: it spreads outlier channels over the others, so that a token's vector needs only
    one scale (Ashkboos et al., QuaRot, arXiv 2404.00456, section 4, on the cache). It works in blocks of 32 channels,
    or of the largest power of two that divides head_dim: larger blocks were no better, and slower. The scale is one
    byte, its exponent in sixteenths of an octave below the head's largest; of several scales, the one with the least
    squared error is stored.

    Args:
        bits: bits of a code, 8 or 4. Two codes of 4 bits share a byte: the low one is of the first half of the vector.
    """

    bits: int

    def parts(self, dtype: torch.dtype, shape: Shape) -> tuple[Part, ...]:
        """List parts as `Scheme.parts` says."""
        layers, heads, tokens, head_dim = shape
        return (
            Part("codes", torch.int8, (layers, heads, tokens, -(-head_dim * self.bits // 8))),
            Part("scale_exponents", torch.uint8, (layers, heads, tokens)),
            Part("scales", torch.float32, (layers, heads, 2)),  # the peak, and the largest step relative to it
        )

    def quantize(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Quantize as `Scheme.quantize` says."""
        return _stack_layers(self._quantize_layer(layer) for layer in tensor)

    def dequantize(self, parts: tuple[Tensor, ...], head_dim: int) -> Tensor:
        """Dequantize as `Scheme.dequantize` says."""
        codes, exponents, scales = parts
        peak, top = scales[..., None, None].unbind(-3)
        relative = self.dequantize_vectors(codes, exponents, top, head_dim)
        return relative.clamp_(-1, 1).mul_(peak)

    def _quantize_layer(self, layer: Tensor) -> tuple[Tensor, ...]:
        relative, peak = _relative(layer)
        codes, exponents, top = self.quantize_vectors(relative)
        return codes, exponents, torch.cat((peak, top), -1)[:, 0]

    def quantize_vectors(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize float32 vectors `[kv_heads, tokens, head_dim]`.

        Returns:
            The codes, the scale exponents, and the largest step `[kv_heads, 1, 1]`.
        """
        rotated = _rotate(vectors) / _block(vectors.shape[-1])
        largest = 2 ** (self.bits - 1) - 1
        steps = rotated.abs().amax(-1, keepdim=True) / largest
        top = steps.amax(-2, keepdim=True)
        candidates = [_scale_exponents(steps * share, top) for share in CLIP_RATIOS]
        errors = torch.cat([self._error(rotated, _steps(exponents, top)) for exponents in candidates], -1)
        exponents = torch.cat(candidates, -1).gather(-1, errors.argmin(-1, keepdim=True))
        codes = self._round(rotated, _steps(exponents, top)).to(torch.int8)
        return _pack_int4(codes) if self.bits == 4 else codes, exponents[..., 0], top

    def dequantize_vectors(self, codes: Tensor, exponents: Tensor, top: Tensor, head_dim: int) -> Tensor:
        """Return float32 vectors from the results of `quantize_vectors`."""
        unpacked = _unpack_int4(codes)[..., :head_dim] if self.bits == 4 else codes
        return _rotate(unpacked.float()).mul_(_steps(exponents[..., None], top))

    def _round(self, rotated: Tensor, steps: Tensor) -> Tensor:
        end = 2 ** (self.bits - 1)
        return (rotated / _nonzero(steps)).round_().clamp_(-end, end - 1)

    def _error(self, rotated: Tensor, steps: Tensor) -> Tensor:
        return (self._round(rotated, steps) * steps - rotated).square_().sum(-1, keepdim=True)


@dataclass(frozen=True)
class MeanSubtracted:
    """Subtract each token's share of the mean direction, and quantize the rest.

    Keys have channels of large, nearly constant magnitude (Liu et al., KIVI, arXiv 2402.02750, section 3), up to tens
    of times the others if a model adds a bias to its keys. A scale and a zero point for each channel, as KIVI has them,
    cost more than they save in a context of a few dozen tokens. The mean key's direction takes one byte per channel,
    and each token's coefficient one more. Each token has its own coefficient, instead of one mean for all, because
    single keys, above all the first of a prompt, differ from the others. The rest has few outliers.

    Args:
        bits: bits of a code, 8 or 4.
    """

    bits: int

    @property
    def rest(self) -> HadamardInt:
        """The scheme of the rest."""
        return HadamardInt(self.bits)

    def parts(self, dtype: torch.dtype, shape: Shape) -> tuple[Part, ...]:
        """List parts as `Scheme.parts` says."""
        layers, heads, tokens, head_dim = shape
        codes, exponents, _ = self.rest.parts(dtype, shape)
        return (
            codes,
            exponents,
            Part("direction", torch.int8, (layers, heads, head_dim)),
            Part("coefficients", torch.int8, (layers, heads, tokens)),
            # As in `HadamardInt`, and one step of coefficient * direction.
            Part("scales", torch.float32, (layers, heads, 3)),
        )

    def quantize(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Quantize as `Scheme.quantize` says."""
        return _stack_layers(self._quantize_layer(layer) for layer in tensor)

    def dequantize(self, parts: tuple[Tensor, ...], head_dim: int) -> Tensor:
        """Dequantize as `Scheme.dequantize` says."""
        codes, exponents, direction, coefficients, scales = parts
        peak, top, step = scales[..., None, None].unbind(-3)
        relative = self.rest.dequantize_vectors(codes, exponents, top, head_dim)
        relative += _along(direction, coefficients, step)
        return relative.clamp_(-1, 1).mul_(peak)

    def _quantize_layer(self, layer: Tensor) -> tuple[Tensor, ...]:
        relative, peak = _relative(layer)
        mean = relative.mean(-2, keepdim=True)
        direction = (mean / _nonzero(mean.abs().amax(-1, keepdim=True)) * 127).round_()
        shares = (relative * direction).sum(-1) / direction.square().sum(-1).clamp_(min=1)
        step = shares.abs().amax(-1)[:, None, None] / 127
        coefficients = (shares / _nonzero(step[..., 0])).round_()
        packed = direction[:, 0].to(torch.int8), coefficients.to(torch.int8)
        codes, exponents, top = self.rest.quantize_vectors(relative - _along(*packed, step))
        return codes, exponents, *packed, torch.cat((peak, top, step), -1)[:, 0]


@cache
def _float8_numbers(device: torch.device) -> Tensor:
    """Return the 256 numbers of the format: a lookup is much faster than torch's cast."""
    return torch.arange(256, dtype=torch.uint8, device=device).view(torch.float8_e4m3fn).float()


def _along(direction: Tensor, coefficients: Tensor, step: Tensor) -> Tensor:
    return (coefficients.float()[..., None] * step) * direction.float()[..., None, :]


def _stack_layers(layers: Iterator[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Stack each part over the layers.

    One layer at a time keeps intermediate tensors small.
    """
    return tuple(torch.stack(part) for part in zip(*layers, strict=True))


def _relative(layer: Tensor) -> tuple[Tensor, Tensor]:
    """Divide `[kv_heads, tokens, head_dim]` by each head's peak.

    Returns the peaks too.
    """
    floats = layer.float()
    peak = floats.abs().amax((-2, -1), keepdim=True)
    return floats / _nonzero(peak), peak


def _nonzero(divisor: Tensor) -> Tensor:
    """Replace the zeros of a divisor by ones; the dividend is zero there too."""
    return divisor.where(divisor != 0, 1.0)


def _scale_exponents(steps: Tensor, top: Tensor) -> Tensor:
    """Return the exponents of the next larger steps; a step of zero gets the last."""
    below = torch.log2(_nonzero(top) / steps) * STEPS_PER_OCTAVE
    return below.floor_().clamp_(0, 255).to(torch.uint8)


def _steps(exponents: Tensor, top: Tensor) -> Tensor:
    return torch.exp2(exponents.float() / -STEPS_PER_OCTAVE) * top


def _block(head_dim: int) -> int:
    """Return the largest power of two that divides `head_dim`, at most `MAX_BLOCK`."""
    return min(head_dim & -head_dim, MAX_BLOCK)


@cache
def _hadamard(size: int, device: torch.device) -> Tensor:
    """Build Sylvester's Hadamard matrix, its own inverse times `size`, a power of two."""
    matrix = torch.ones(1, 1, device=device)
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], device=device)
    while matrix.shape[0] < size:
        matrix = torch.kron(pair, matrix)
    return matrix


def _rotate(vectors: Tensor) -> Tensor:
    """Multiply blocks of the last dimension by a Hadamard matrix.

    Sums of codes are exact in float32.
    """
    size = _block(vectors.shape[-1])
    return (vectors.reshape(-1, size) @ _hadamard(size, vectors.device)).view(vectors.shape)


def _pack_int4(codes: Tensor) -> Tensor:
    """Pack codes of 4 bits, two to a byte; an odd number is padded with zero."""
    even = torch.nn.functional.pad(codes, (0, codes.shape[-1] % 2))
    low, high = even.chunk(2, -1)
    return (low & 15) | (high << 4)


def _unpack_int4(codes: Tensor) -> Tensor:
    return torch.cat(((codes << 4) >> 4, codes >> 4), -1)
