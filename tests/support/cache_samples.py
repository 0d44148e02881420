"""Contexts to test with."""

import hashlib
from dataclasses import fields
from typing import Any

import torch

from lookonce_cache import CompressedContext, ContextIdentity, ContextKey, QuantizedTensor, quantize

_IDENTITY = {field.name for field in fields(ContextIdentity)}


def hex_digest(name: object) -> str:
    """64 hex digits that stand for `name`."""
    return hashlib.sha256(repr(name).encode()).hexdigest()


def context_key(name: object = "a context", tenant: str = "acme") -> ContextKey:
    """The key of `make_context(name)`."""
    return make_identity(name, tenant=tenant).key()


def make_identity(name: object = "a context", **changes: Any) -> ContextIdentity:
    """The identity of `make_context(name)`."""
    given: dict[str, Any] = {
        "tenant": "acme",
        "model_fingerprint": "model-1",
        "image_digest": hex_digest(name),
        "describe_prompt": "Describe the image.",
        "template_digest": hex_digest("a template"),
        "retention": 0.25,
        "selection": "attention",
        "window": (4, 20),
        "precision": "native",
    }
    return ContextIdentity(**{**given, **changes})


def make_context(name: object = "a context", **changes: Any) -> CompressedContext:
    """A small valid context, its tensors drawn from `name`.

    Args:
        name: decides everything that is not given.
        changes: fields of the context, with keys and values dense, or of its identity.
    """
    random = torch.Generator().manual_seed(int(hex_digest(name)[:8], 16))
    identity = make_identity(name, **{field: changes.pop(field) for field in _IDENTITY & changes.keys()})
    given: dict[str, Any] = {
        "keys": torch.randn(2, 3, 7, 4, generator=random),
        "values": torch.randn(2, 3, 7, 4, generator=random),
        "shared_tokens": 2,
        "moved_by": -11,
        "full_tokens": 20,
        "kept_indices": torch.tensor([[1, 5, 11], [0, 5, 6]], dtype=torch.int32),
        "scores": torch.rand(12, generator=random),
        "grid": (3, 4),
        "description": "ein rotes Fahrrad, 自行车 🚲",
        "created_at": 1_700_000_000.25,
    } | changes
    for role in ("keys", "values"):
        if isinstance(given[role], torch.Tensor):
            given[role] = quantize(given[role], role, identity.precision)
    return CompressedContext(identity=identity, **given)


def assert_same(one: CompressedContext | None, other: CompressedContext) -> None:
    """Fails unless the two are equal in every field and every bit of every tensor."""
    assert one is not None
    for name in CompressedContext.__dataclass_fields__:
        left, right = getattr(one, name), getattr(other, name)
        if isinstance(right, QuantizedTensor):
            assert (left.role, left.precision, left.dtype, left.shape) == (
                right.role,
                right.precision,
                right.dtype,
                right.shape,
            ), name
            for left_part, right_part in zip(left.parts, right.parts, strict=True):
                assert_same_bits(left_part, right_part, name)
        elif isinstance(right, torch.Tensor):
            assert_same_bits(left, right, name)
        elif name == "states":
            assert list(left) == list(right)
            for state in right:
                assert_same_bits(left[state], right[state], state)
        else:
            assert left == right, name
            assert type(left) is type(right), name


def assert_same_bits(left: torch.Tensor, right: torch.Tensor, name: str) -> None:
    """Fails unless the two are equal in type, shape and every bit."""
    assert left.dtype == right.dtype, name
    assert left.shape == right.shape, name
    assert torch.equal(left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8)), name
