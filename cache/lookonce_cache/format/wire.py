"""Encode a context as one string of bytes, and back, without pickle.

Layout and versioning are in docs/context-format.md.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from lookonce_cache.context import CompressedContext
from lookonce_cache.errors import ContextFormatError, InvalidContextError
from lookonce_cache.format.checksum import DIGEST_BYTES, checksum
from lookonce_cache.format.header import STATE, Header, TensorSpec, decode_head, encode_head
from lookonce_cache.format.quantization import QuantizedTensor, Role
from lookonce_cache.identity import ContextKey


def encode(context: CompressedContext) -> bytes:
    """Encode a context in the current format version; copies each tensor once."""
    head_bytes, head = encode_head(context)
    parts: list[bytes | memoryview] = [head_bytes]
    position = len(head_bytes)
    for spec, tensor in zip(head.tensors.values(), _tensors(context), strict=True):
        parts += [bytes(spec.start - position), _raw_bytes(tensor)]
        position = spec.end
    return b"".join([*parts, checksum(*parts)])


def decode(data: bytes | bytearray | memoryview, expected: ContextKey) -> CompressedContext:
    """Decode the context in `data`, which must have the `expected` key.

    The tensors are views of `data`, which they keep alive; nothing is copied. Nothing is allocated by the header's
    sizes before they were compared with the bytes that are there.

    Raises:
        ContextFormatError: the value is truncated, damaged, hostile, of another format version, or of another context.
            No bytes raise another error.
    """
    view = memoryview(data).cast("B")
    head = decode_head(view, expected)
    _verify_body(view, head)
    # By DLPack, from which torch takes read-only memory: torch has no read-only tensors, and warns of them elsewhere.
    data_tensor = from_dlpack(np.frombuffer(view, dtype=np.uint8))
    tensors = {name: _view(data_tensor, spec) for name, spec in head.tensors.items()}
    try:
        return CompressedContext(
            identity=head.identity,
            keys=_quantized("keys", head, tensors),
            values=_quantized("values", head, tensors),
            kept_indices=tensors["kept_indices"],
            scores=tensors["scores"],
            states={name.removeprefix(STATE): each for name, each in tensors.items() if name.startswith(STATE)},
            **head.facts,
        )
    except InvalidContextError as error:
        raise ContextFormatError("header", f"the header contradicts itself: {error}") from None


def _verify_body(view: memoryview, head: Header) -> None:
    if len(view) < head.total:
        raise ContextFormatError("truncated", f"the value has {head.total} bytes, {len(view)} are here")
    if len(view) > head.total:
        raise ContextFormatError("trailing", f"{len(view) - head.total} bytes follow the value")
    if checksum(view[:-DIGEST_BYTES]) != bytes(view[-DIGEST_BYTES:]):
        raise ContextFormatError("checksum", "the value's checksum does not match")


def _tensors(context: CompressedContext) -> Iterator[torch.Tensor]:
    """Yield the tensors in the order of their bytes."""
    yield from context.keys.parts
    yield from context.values.parts
    yield context.kept_indices
    yield context.scores
    yield from context.states.values()


def _quantized(role: Role, head: Header, tensors: dict[str, torch.Tensor]) -> QuantizedTensor:
    parts = tuple(tensor for name, tensor in tensors.items() if name.startswith(f"{role}."))
    return QuantizedTensor(role, head.identity.precision, head.dtype, head.shape, parts)


def _raw_bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _view(data: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    return data[spec.start : spec.end].view(spec.dtype).view(spec.shape)
