"""Encode and decode the head of a value: prefix, msgpack header, and their digest.

The layout is in docs/context-format.md. The head can be read and trusted without the tensors behind it, which is how
stores list contexts.
"""

import math
import struct
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import msgpack
import torch

from lookonce_cache.context import FACTS, MAX_DIMENSION, OPTIONAL_FACTS, CompressedContext, check_facts, check_states
from lookonce_cache.errors import ContextFormatError, InvalidContextError
from lookonce_cache.format.checksum import DIGEST_BYTES, checksum
from lookonce_cache.format.quantization import Role, parts_of
from lookonce_cache.format.schemes import Part
from lookonce_cache.identity import FORMAT_VERSION, ContextIdentity, ContextKey

MAGIC = b"lookonce"
PREFIX = struct.Struct("<8sIIQ")  # magic, format version, bytes of header, bytes of the whole value
MAX_HEADER_BYTES = 64 * 1024  # above the limits of a context's texts
MAX_HEAD_BYTES = PREFIX.size + MAX_HEADER_BYTES + DIGEST_BYTES
MAX_ITEMS = 16  # of any array or map in a header: a length alone must not make the reader allocate
ALIGNMENT = 64  # of every tensor's first byte, a cache line

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
ROLES: tuple[Role, ...] = ("keys", "values")

IDENTITY = {field.name for field in fields(ContextIdentity)}
FIELDS = {*FACTS, "identity", "dtype", "shape", "kept"}
OPTIONAL = {*OPTIONAL_FACTS, "states"}
STATE = "states."  # before the name of a state's tensor


class TensorSpec(NamedTuple):
    """The dtype, shape and offset of one tensor in a value."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """The bytes of the tensor, without padding."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The offset of the first byte after the tensor."""
        return self.start + self.nbytes


@dataclass(frozen=True, slots=True)
class Header:
    """Describe an encoded context without its tensors.

    Attributes:
        identity: the context's identity.
        facts: the context's other fields that are not tensors; see `FACTS` and `OPTIONAL_FACTS`.
        dtype: dtype of keys and values once dequantized.
        shape: shape of keys and values once dequantized, [layers, kv_heads, stored tokens, head_dim].
        tensors: dtype, shape and offset of each tensor by name, in the order of their bytes.
        total: bytes of the whole value.
    """

    identity: ContextIdentity
    facts: dict[str, Any]
    dtype: torch.dtype
    shape: tuple[int, int, int, int]
    tensors: dict[str, TensorSpec]
    total: int


def encode_head(context: CompressedContext) -> tuple[bytes, Header]:
    """Encode the head; returns its bytes, and the header with the tensors' offsets."""
    facts = {name: getattr(context, name) for name in FACTS}
    facts |= {name: value for name in OPTIONAL_FACTS if (value := getattr(context, name)) is not None}
    dtype, shape, kept = context.keys.dtype, context.keys.shape, tuple(context.kept_indices.shape)
    sizes: dict[str, Any] = {"dtype": DTYPE_NAMES[dtype], "shape": shape, "kept": kept}
    states = [Part(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in context.states.items()]
    if states:
        sizes["states"] = [(name, DTYPE_NAMES[state], *size) for name, state, size in states]
    header: bytes = msgpack.packb({"identity": context.identity.as_dict(), **facts, **sizes})
    head_bytes = PREFIX.size + len(header) + DIGEST_BYTES
    parts = _parts(context.identity.precision, dtype, shape, kept, math.prod(context.grid))
    head = _header(context.identity, facts, dtype, shape, [*parts, *_state_parts(states)], head_bytes)
    prefix = PREFIX.pack(MAGIC, FORMAT_VERSION, len(header), head.total)
    return prefix + header + checksum(prefix, header), head


def decode_head(data: bytes | memoryview, expected: ContextKey) -> Header:
    """Decode and verify the head of `data`, which may end anywhere after it.

    Raises:
        ContextFormatError: the head is truncated, damaged, of another version, or of another context than `expected`.
    """
    header_length, total = _decode_prefix(data)
    head_bytes = PREFIX.size + header_length + DIGEST_BYTES
    if len(data) < head_bytes:
        raise ContextFormatError("truncated", f"the head has {head_bytes} bytes, {len(data)} are here")
    covered = head_bytes - DIGEST_BYTES
    if checksum(data[:covered]) != bytes(data[covered:head_bytes]):
        raise ContextFormatError("checksum", "the head's checksum does not match")
    head = _decode_header(data[PREFIX.size : covered], head_bytes)
    if head.total != total:
        raise ContextFormatError("header", f"the tensors add up to {head.total} bytes, not to {total}")
    if head.identity.key() != expected:
        raise ContextFormatError("foreign", "the value is that of another context")
    return head


def _decode_prefix(data: bytes | memoryview) -> tuple[int, int]:
    if bytes(data[: len(MAGIC)]) != MAGIC[: len(data)]:
        raise ContextFormatError("foreign", "the value does not start like a context")
    if len(data) < PREFIX.size:
        raise ContextFormatError("truncated", f"the prefix has {PREFIX.size} bytes, {len(data)} are here")
    _, version, header_length, total = PREFIX.unpack_from(data)
    if version != FORMAT_VERSION:
        raise ContextFormatError("version", f"format version {version}, this reader knows {FORMAT_VERSION}")
    if header_length > MAX_HEADER_BYTES:
        raise ContextFormatError("header", f"a header of {header_length} bytes, the limit is {MAX_HEADER_BYTES}")
    return header_length, total


def _decode_header(header: bytes | memoryview, head_bytes: int) -> Header:
    fields = _unpack(header)
    if not isinstance(fields, dict) or fields.keys() - OPTIONAL != FIELDS:
        raise ContextFormatError("header", "the header does not have exactly the fields of this version")
    if any(fields[name] is None for name in OPTIONAL & fields.keys()):
        raise ContextFormatError("header", "an optional field is there without a value")
    for name, *least in (("shape", (1, 1, 1, 1)), ("kept", (1, 0)), ("grid", (1, 1), (1, 1, 1))):
        if not any(_is_shape(fields[name], sizes) for sizes in least):
            raise ContextFormatError("header", f"{name} is impossible")
    dtype, shape = _decode_dtype(fields["dtype"]), fields["shape"]
    facts = {name: fields[name] for name in (*FACTS, *OPTIONAL_FACTS) if name in fields}
    states = _decode_states(fields["states"]) if "states" in fields else []
    try:
        check_facts(**facts)
        check_states(states)
        identity = _decode_identity(fields["identity"])
        parts = _parts(identity.precision, dtype, shape, fields["kept"], math.prod(facts["grid"]))
    except InvalidContextError as error:
        raise ContextFormatError("header", f"the header is invalid: {error}") from None
    return _header(identity, facts, dtype, shape, [*parts, *_state_parts(states)], head_bytes)


def _header(
    identity: ContextIdentity,
    facts: dict[str, Any],
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    parts: list[Part],
    head_bytes: int,
) -> Header:
    """Build a header whose tensors follow a head of so many bytes."""
    tensors = _assign_offsets(parts, head_bytes)
    return Header(identity, facts, dtype, shape, tensors, [*tensors.values()][-1].end + DIGEST_BYTES)


def _unpack(header: bytes | memoryview) -> object:
    try:
        return msgpack.unpackb(
            header,
            use_list=False,
            object_pairs_hook=_map,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_bin_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise ContextFormatError("header", f"the header is not msgpack: {error}") from None


def _map(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build a dict, and refuse a repeated key, which readers would treat differently."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a map has a key twice")
    return fields


def _decode_identity(fields: object) -> ContextIdentity:
    if not isinstance(fields, dict) or fields.keys() != IDENTITY:
        raise ContextFormatError("header", "the identity does not have exactly the fields of this version")
    identity = ContextIdentity(**fields)
    if identity.format_version != FORMAT_VERSION:
        raise ContextFormatError("header", "the identity is that of another format version")
    return identity


def _decode_dtype(name: object) -> torch.dtype:
    if not isinstance(name, str) or name not in DTYPES:
        raise ContextFormatError("header", f"dtype is none of {', '.join(DTYPES)}")
    return DTYPES[name]


def _decode_states(states: object) -> list[Part]:
    """Return the name, dtype and shape of each state; see `check_states` for what they may be."""
    if not isinstance(states, tuple) or not states:
        raise ContextFormatError("header", "states is no array of states")
    if not all(isinstance(state, tuple) and len(state) > 2 for state in states):
        raise ContextFormatError("header", "a state is not a name, a dtype and sizes")
    return [Part(name, _decode_dtype(dtype), tuple(shape)) for name, dtype, *shape in states]


def _state_parts(states: list[Part]) -> list[Part]:
    """List the tensors of states, in the order of their bytes."""
    return [part._replace(name=STATE + part.name) for part in states]


def _is_shape(shape: object, least: tuple[int, ...]) -> bool:
    """Tell whether a shape is at least `least`, and small enough to exist."""
    return (
        isinstance(shape, tuple)
        and len(shape) == len(least)
        and all(type(size) is int and low <= size <= MAX_DIMENSION for low, size in zip(least, shape, strict=True))
        and math.prod(max(size, 1) for size in shape) < 2**48  # so that strides fit, even of an empty tensor
    )


def _parts(
    precision: str, dtype: torch.dtype, shape: tuple[int, int, int, int], kept: tuple[int, ...], image_tokens: int
) -> list[Part]:
    """List every tensor of a context, in the order of their bytes."""
    return [
        *(
            part._replace(name=f"{role}.{part.name}")
            for role in ROLES
            for part in parts_of(role, precision, dtype, shape)
        ),
        Part("kept_indices", torch.int32, kept),
        Part("scores", torch.float32, (image_tokens,)),
    ]


def _assign_offsets(parts: list[Part], offset: int) -> dict[str, TensorSpec]:
    """Assign aligned offsets to the tensors, one after another from `offset` on."""
    specs = {}
    for name, dtype, shape in parts:
        spec = TensorSpec(dtype, shape, -(-offset // ALIGNMENT) * ALIGNMENT)
        specs[name] = spec
        offset = spec.end
    return specs
