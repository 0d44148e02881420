"""A second reader of the context format, written from docs/context-format.md with numpy, and nothing of lookonce."""

import hashlib
import math
import struct
from typing import Any, NamedTuple

import msgpack
import numpy as np
import xxhash

SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
IDENTITY = (
    "tenant",
    "model_fingerprint",
    "image_digest",
    "describe_prompt",
    "template_digest",
    "retention",
    "selection",
    "window",
    "precision",
    "format_version",
)


class Read(NamedTuple):
    """What a value says."""

    id: str
    header: dict[str, Any]
    keys: np.ndarray  # dense, float32, rounded to what the header's dtype can hold
    values: np.ndarray
    kept_indices: np.ndarray
    scores: np.ndarray
    states: dict[str, np.ndarray]


def read(value: bytes) -> Read:
    """A whole value, checked by its checksums and sizes."""
    magic, version, header_length, total = struct.unpack("<8sIIQ", value[:24])
    assert (magic, version, total) == (b"lookonce", 1, len(value))
    end = 24 + header_length
    assert xxhash.xxh3_128_digest(value[:end]) == value[end : end + 16]
    assert xxhash.xxh3_128_digest(value[:-16]) == value[-16:]
    header = msgpack.unpackb(value[24:end])
    identity = msgpack.packb([header["identity"][name] for name in IDENTITY])
    tensors = _Tensors(value, end + 16)
    read = Read(
        hashlib.blake2b(identity, digest_size=32, person=b"lookonce-context").hexdigest(),
        header,
        _dense("keys", header, tensors),
        _dense("values", header, tensors),
        tensors.take("<i4", header["kept"]),
        tensors.take("<f4", [math.prod(header["grid"])]),
        {name: _widened(tensors, dtype, sizes) for name, dtype, *sizes in header.get("states", [])},
    )
    assert tensors.offset + 16 == len(value)
    blocks = header.get("layout", [])
    tokens = sum(rows * columns * high * (wide + breaks) for rows, columns, high, wide, breaks, *_ in blocks)
    assert not blocks or math.prod(header["grid"]) == tokens * (header["grid"][0] if len(header["grid"]) == 3 else 1)
    return read


class _Tensors:
    """A value's tensors, in the order of their bytes."""

    def __init__(self, value: bytes, offset: int) -> None:
        self.value, self.offset = value, offset

    def take(self, dtype: str, shape: list[int]) -> np.ndarray:
        start = (self.offset + 63) // 64 * 64
        assert not any(self.value[self.offset : start])
        array = np.frombuffer(self.value, dtype, int(np.prod(shape)), start).reshape(shape)
        self.offset = start + array.nbytes
        return array


def _dense(role: str, header: dict[str, Any], tensors: _Tensors) -> np.ndarray:
    precision, dtype, shape = header["identity"]["precision"], header["dtype"], header["shape"]
    if precision == "native":
        return _widened(tensors, dtype, shape)
    if precision == "fp8":
        codes, scales = tensors.take("u1", shape), tensors.take("<f4", shape[:3])
        return _rounded(_e4m3(codes) / np.float32(448) * scales[..., None], dtype)
    bits = {"int8": 8, "int4": 4}[precision]
    return _rounded(_integers(role, bits, shape, tensors), dtype)


def _widened(tensors: _Tensors, dtype: str, shape: list[int]) -> np.ndarray:
    if dtype == "bfloat16":
        return (tensors.take("<u2", shape).astype(np.uint32) << 16).view(np.float32)
    return tensors.take(f"<f{SIZES[dtype]}", shape).astype(np.float32)


def _e4m3(codes: np.ndarray) -> np.ndarray:
    sign = np.where(codes & 128, -1, 1)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    normal = (8 + mantissa) * 2.0 ** (exponent.astype(int) - 10)
    return (sign * np.where(exponent, normal, mantissa * 2.0**-9)).astype(np.float32)


def _integers(role: str, bits: int, shape: list[int], tensors: _Tensors) -> np.ndarray:
    layers, heads, tokens, head_dim = shape
    codes = tensors.take("i1", [layers, heads, tokens, (head_dim * bits + 7) // 8])
    scale_exponents = tensors.take("u1", [layers, heads, tokens])
    if role == "keys":
        direction = tensors.take("i1", [layers, heads, head_dim]).astype(np.float32)
        coefficients = tensors.take("i1", [layers, heads, tokens]).astype(np.float32)
    scales = tensors.take("<f4", [layers, heads, 3 if role == "keys" else 2])[..., None, None, :]
    if bits == 4:
        low, high = (codes << 4) >> 4, codes >> 4
        codes = np.concatenate([low, high], -1)[..., :head_dim]
    steps = np.exp2(scale_exponents[..., None].astype(np.float32) / -16) * scales[..., 1]
    shares = _rotated(codes) * steps
    if role == "keys":
        shares = shares + coefficients[..., None] * scales[..., 2] * direction[..., None, :]
    return np.clip(shares, -1, 1) * scales[..., 0]


def _rotated(codes: np.ndarray) -> np.ndarray:
    """Each block times the matrix whose element (i, j) is -1 to the number of ones that i and j share in binary."""
    head_dim = codes.shape[-1]
    block = next(size for size in (32, 16, 8, 4, 2, 1) if head_dim % size == 0)
    matrix = np.array([[(-1) ** (i & j).bit_count() for j in range(block)] for i in range(block)], np.float32)
    return (codes.astype(np.float32).reshape(-1, block) @ matrix).reshape(codes.shape)


def _rounded(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """To the nearest that the dtype has, to the even one of two."""
    numbers = numbers.astype(np.float32)
    if dtype == "float16":
        return numbers.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        whole = numbers.view(np.uint32)
        return ((whole + 0x7FFF + (whole >> 16 & 1)) & 0xFFFF0000).view(np.float32)
    return numbers
