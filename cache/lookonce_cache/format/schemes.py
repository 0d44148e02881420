"""Turn a tensor into fewer bytes and back: one class a scheme. `quantization` chooses among them.

A scheme treats each layer and head for itself. What it stores is relative to a peak, the largest magnitude there is,
and no value it gives back is larger: so nothing overflows, in any dtype.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Shape = tuple[int, int, int, int]
"""Of keys or values: layers, kv_heads, tokens, head_dim."""

LARGEST_BLOCK = 32
STEPS_PER_OCTAVE = 16
CLIPPED = (1.0, 0.9, 0.8, 0.7)
"""Shares of a vector's largest magnitude that are tried as the largest code's."""


class Part(NamedTuple):
    """One tensor of raw bytes in the wire format."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class Scheme(Protocol):
    """A way to store a tensor `[layers, kv_heads, tokens, head_dim]`."""

    def parts(self, dtype: torch.dtype, shape: Shape) -> tuple[Part, ...]:
        """What a tensor is stored as. Arithmetic only."""

    def encode(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """The parts of a finite tensor, on its device."""

    def decode(self, parts: tuple[Tensor, ...], head_dim: int) -> Tensor:
        """The tensor, or its layers that the parts are of, on their device."""


class Unquantized:
    """The tensor itself."""

    def parts(self, dtype: torch.dtype, shape: Shape) -> tuple[Part, ...]:
        """See `Scheme.parts`."""
        return (Part("codes", dtype, shape),)

    def encode(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """See `Scheme.encode`."""
        return (tensor,)

    def decode(self, parts: tuple[Tensor, ...], head_dim: int) -> Tensor:
        """See `Scheme.decode`."""
        return parts[0]


class Float8:
    """E4M3 floats (Micikevicius et al., arXiv 2209.05433, section 3), relative to the peak of each token's vector.

    The scale puts the peak on the format's largest number, 448. Elements far below it keep their relative precision of
    four bits.
    """

    largest = 448.0

    def parts(self, dtype: torch.dtype, shape: Shape) -> tuple[Part, ...]:
        """See `Scheme.parts`."""
        return Part("codes", torch.float8_e4m3fn, shape), Part("scales", torch.float32, shape[:3])

    def encode(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """See `Scheme.encode`."""
        wide = tensor.float()
        peaks = wide.abs().amax(-1)
        relative = wide / _nonzero(peaks)[..., None] * self.largest
        return relative.to(torch.float8_e4m3fn), peaks

    def decode(self, parts: tuple[Tensor, ...], head_dim: int) -> Tensor:
        """See `Scheme.decode`."""
        codes, peaks = parts
        wide = _float8_numbers(codes.device).index_select(0, codes.view(torch.uint8).flatten().int())
        return wide.view(codes.shape).div_(self.largest).mul_(peaks[..., None])


@dataclass(frozen=True)
class HadamardInt4:
    """Integers after a rotation of the head dimension, on a scale for each token.

    The rotation is a Hadamard matrix: it spreads outlying channels over others, so that a token's vector needs but one
    scale (Ashkboos et al., QuaRot, arXiv 2404.00456, section 4, on the cache). It works in blocks of 32 channels, or of
    the largest power of two that divides head_dim: larger blocks were no better, and slower. The scale is one byte, in
    sixteenths of an octave below the head's largest; of a few, the one with the least squared error.

    Args:
        bits: of a code, 8 or 4. Two codes of 4 bits share a byte: the low one is of the first half of the vector.
    """

    bits: int

    def parts(self, dtype: torch.dtype, shape: Shape) -> tuple[Part, ...]:
        """See `Scheme.parts`."""
        layers, heads, tokens, head_dim = shape
        return (
            Part("codes", torch.int8, (layers, heads, tokens, -(-head_dim * self.bits // 8))),
            Part("octaves", torch.uint8, (layers, heads, tokens)),
            Part("scales", torch.float32, (layers, heads, 2)),  # the peak, and the largest step relative to it
        )

    def encode(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """See `Scheme.encode`."""
        return _by_layer(self._encode_layer(layer) for layer in tensor)

    def decode(self, parts: tuple[Tensor, ...], head_dim: int) -> Tensor:
        """See `Scheme.decode`."""
        codes, octaves, scales = parts
        peak, top = scales[..., None, None].unbind(-3)
        relative = self.dequantise(codes, octaves, top, head_dim)
        return relative.clamp_(-1, 1).mul_(peak)

    def _encode_layer(self, layer: Tensor) -> tuple[Tensor, ...]:
        relative, peak = _relative(layer)
        codes, octaves, top = self.quantise(relative)
        return codes, octaves, torch.cat((peak, top), -1)[:, 0]

    def quantise(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, octaves and the largest step `[kv_heads, 1, 1]` of vectors `[kv_heads, tokens, head_dim]`, float32."""
        rotated = _rotate(vectors) / _block(vectors.shape[-1])
        largest = 2 ** (self.bits - 1) - 1
        steps = rotated.abs().amax(-1, keepdim=True) / largest
        top = steps.amax(-2, keepdim=True)
        tried = [_scale_exponents(steps * share, top) for share in CLIPPED]
        errors = torch.cat([self._error(rotated, _steps(octaves, top)) for octaves in tried], -1)
        octaves = torch.cat(tried, -1).gather(-1, errors.argmin(-1, keepdim=True))
        codes = self._round(rotated, _steps(octaves, top)).to(torch.int8)
        return _paired(codes) if self.bits == 4 else codes, octaves[..., 0], top

    def dequantise(self, codes: Tensor, octaves: Tensor, top: Tensor, head_dim: int) -> Tensor:
        """The vectors, float32, of what `quantise` gave."""
        single = _unpaired(codes)[..., :head_dim] if self.bits == 4 else codes
        return _rotate(single.float()).mul_(_steps(octaves[..., None], top))

    def _round(self, rotated: Tensor, steps: Tensor) -> Tensor:
        end = 2 ** (self.bits - 1)
        return (rotated / _nonzero(steps)).round_().clamp_(-end, end - 1)

    def _error(self, rotated: Tensor, steps: Tensor) -> Tensor:
        return (self._round(rotated, steps) * steps - rotated).square_().sum(-1, keepdim=True)


@dataclass(frozen=True)
class MeanSubtracted:
    """`HadamardInt4`, after each token's share of one direction common to all tokens was taken out.

    Keys have channels of large, nearly constant magnitude (Liu et al., KIVI, arXiv 2402.02750, section 3), up to tens
    of times the rest where a model adds a bias to its keys. A scale and a zero for each channel, as KIVI has them, cost
    more than they save in a context of a few dozen tokens. The mean key's direction needs a byte a channel, and each
    token's coefficient one more; a coefficient each, and not a mean taken off all, because single keys, a prompt's
    first above all, are unlike the others. What is left has few outliers.

    Args:
        bits: of a code, 8 or 4.
    """

    bits: int

    @property
    def rest(self) -> HadamardInt4:
        """The scheme of what is left."""
        return HadamardInt4(self.bits)

    def parts(self, dtype: torch.dtype, shape: Shape) -> tuple[Part, ...]:
        """See `Scheme.parts`."""
        layers, heads, tokens, head_dim = shape
        codes, octaves, _ = self.rest.parts(dtype, shape)
        return (
            codes,
            octaves,
            Part("direction", torch.int8, (layers, heads, head_dim)),
            Part("coefficients", torch.int8, (layers, heads, tokens)),
            Part(
                "scales", torch.float32, (layers, heads, 3)
            ),  # as in `HadamardInt4`; one step of coefficient * direction
        )

    def encode(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """See `Scheme.encode`."""
        return _by_layer(self._encode_layer(layer) for layer in tensor)

    def decode(self, parts: tuple[Tensor, ...], head_dim: int) -> Tensor:
        """See `Scheme.decode`."""
        codes, octaves, direction, coefficients, scales = parts
        peak, top, step = scales[..., None, None].unbind(-3)
        relative = self.rest.dequantise(codes, octaves, top, head_dim)
        relative += _along(direction, coefficients, step)
        return relative.clamp_(-1, 1).mul_(peak)

    def _encode_layer(self, layer: Tensor) -> tuple[Tensor, ...]:
        relative, peak = _relative(layer)
        mean = relative.mean(-2, keepdim=True)
        direction = (mean / _nonzero(mean.abs().amax(-1, keepdim=True)) * 127).round_()
        shares = (relative * direction).sum(-1) / direction.square().sum(-1).clamp_(min=1)
        step = shares.abs().amax(-1)[:, None, None] / 127
        coefficients = (shares / _nonzero(step[..., 0])).round_()
        narrow = direction[:, 0].to(torch.int8), coefficients.to(torch.int8)
        codes, octaves, top = self.rest.quantise(relative - _along(*narrow, step))
        return codes, octaves, *narrow, torch.cat((peak, top, step), -1)[:, 0]


@cache
def _float8_numbers(device: torch.device) -> Tensor:
    """The number of each of the 256 codes. Looked up much faster than torch converts them on a CPU."""
    return torch.arange(256, dtype=torch.uint8, device=device).view(torch.float8_e4m3fn).float()


def _along(direction: Tensor, coefficients: Tensor, step: Tensor) -> Tensor:
    return (coefficients.float()[..., None] * step) * direction.float()[..., None, :]


def _by_layer(layers: Iterator[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Each part of all layers, stacked. One layer at a time keeps what is computed on the way small."""
    return tuple(torch.stack(part) for part in zip(*layers, strict=True))


def _relative(layer: Tensor) -> tuple[Tensor, Tensor]:
    """`[kv_heads, tokens, head_dim]` in float32 as shares of each head's peak, and the peaks `[kv_heads, 1, 1]`."""
    wide = layer.float()
    peak = wide.abs().amax((-2, -1), keepdim=True)
    return wide / _nonzero(peak), peak


def _nonzero(divisor: Tensor) -> Tensor:
    """The divisor, with ones for zeros: what is divided by those is zero too."""
    return divisor.where(divisor != 0, 1.0)


def _scale_exponents(steps: Tensor, top: Tensor) -> Tensor:
    """The smallest step that is no smaller, in `STEPS_PER_OCTAVE` below the top. A step of zero becomes the last."""
    below = torch.log2(_nonzero(top) / steps) * STEPS_PER_OCTAVE
    return below.floor_().clamp_(0, 255).to(torch.uint8)


def _steps(octaves: Tensor, top: Tensor) -> Tensor:
    return torch.exp2(octaves.float() / -STEPS_PER_OCTAVE) * top


def _block(head_dim: int) -> int:
    """The largest power of two that divides it, but no more than helps."""
    return min(head_dim & -head_dim, LARGEST_BLOCK)


@cache
def _hadamard(size: int, device: torch.device) -> Tensor:
    """Sylvester's matrix of ones and minus ones, symmetric, its own inverse times `size`. For a power of two."""
    matrix = torch.ones(1, 1, device=device)
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], device=device)
    while matrix.shape[0] < size:
        matrix = torch.kron(pair, matrix)
    return matrix


def _rotate(vectors: Tensor) -> Tensor:
    """Last dimension times a Hadamard matrix, in blocks. Sums of codes are exact in float32, on any device."""
    size = _block(vectors.shape[-1])
    return (vectors.reshape(-1, size) @ _hadamard(size, vectors.device)).view(vectors.shape)


def _paired(codes: Tensor) -> Tensor:
    """Codes of 4 bits, two to a byte; a zero is added to an odd number."""
    even = torch.nn.functional.pad(codes, (0, codes.shape[-1] % 2))
    low, high = even.chunk(2, -1)
    return (low & 15) | (high << 4)


def _unpaired(codes: Tensor) -> Tensor:
    return torch.cat(((codes << 4) >> 4, codes >> 4), -1)
