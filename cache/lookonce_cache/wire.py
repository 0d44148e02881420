"""The wire format: a context as one string of bytes. Layout and versioning: docs/context-format.md. Never pickle."""

from typing import Any

import torch

from lookonce_cache.context import CompressedContext
from lookonce_cache.errors import ContextFormatError, InvalidContextError
from lookonce_cache.header import DIGEST_BYTES, Head, TensorSpec, checksum, decode_head, encode_head


def encode(context: CompressedContext) -> bytes:
    """The context in the current format version. Copies each tensor's bytes once."""
    first, head = encode_head(context)
    parts: list[bytes | memoryview] = [first]
    position = len(first)
    for name, spec in head.tensors.items():
        parts += [bytes(spec.start - position), _raw_bytes(getattr(context, name))]
        position = spec.end
    return b"".join([*parts, checksum(*parts)])


def decode(data: bytes | bytearray | memoryview, expected_id: str) -> CompressedContext:
    """The context in `data`, which must be the one of `expected_id`.

    The tensors are views of one buffer: of `data` itself if it is writable, else of one copy (torch has no read-only
    tensors). Nothing is allocated by what the header claims before the claim was compared with the bytes that are here.

    Raises:
        ContextFormatError: the value is truncated, damaged, hostile, of another format version, or of another context.
            No other error is raised, whatever the bytes.
    """
    view = memoryview(data)
    head = decode_head(view, expected_id)
    _verify_body(view, head)
    buffer = memoryview(bytearray(view)) if view.readonly else view
    tensors: dict[str, Any] = {name: _tensor(buffer, spec) for name, spec in head.tensors.items()}
    try:
        return CompressedContext(**head.facts, **tensors)
    except InvalidContextError as error:
        raise ContextFormatError("header", f"the header contradicts itself: {error}") from None


def _verify_body(view: memoryview, head: Head) -> None:
    if len(view) < head.total:
        raise ContextFormatError("truncated", f"the value has {head.total} bytes, {len(view)} are here")
    if len(view) > head.total:
        raise ContextFormatError("trailing", f"{len(view) - head.total} bytes follow the value")
    if checksum(view[:-DIGEST_BYTES]) != bytes(view[-DIGEST_BYTES:]):
        raise ContextFormatError("checksum", "the value's checksum does not match")


def _raw_bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _tensor(buffer: memoryview, spec: TensorSpec) -> torch.Tensor:
    if spec.nbytes == 0:
        return torch.empty(spec.shape, dtype=spec.dtype)  # frombuffer refuses to read nothing
    count = spec.nbytes // spec.dtype.itemsize
    return torch.frombuffer(buffer, dtype=spec.dtype, count=count, offset=spec.start).reshape(spec.shape)
