"""Contexts to test with."""

import hashlib
from typing import Any

import torch

from lookonce_cache import CompressedContext


def context_id(name: object) -> str:
    """An id as good as any for `name`."""
    return hashlib.sha256(repr(name).encode()).hexdigest()


def make_context(name: object = "a context", **changes: Any) -> CompressedContext:
    """A small valid context, its tensors drawn from `name`."""
    random = torch.Generator().manual_seed(int(context_id(name)[:8], 16))
    fields: dict[str, Any] = {
        "id": context_id(name),
        "keys": torch.randn(2, 3, 7, 4, generator=random),
        "values": torch.randn(2, 3, 7, 4, generator=random),
        "next_position": 7,
        "full_tokens": 20,
        "image_tokens": 12,
        "kept_indices": torch.tensor([[1, 5, 11], [0, 5, 6]], dtype=torch.int32),
        "scores": torch.rand(12, generator=random),
        "grid": (3, 4),
        "description": "ein rotes Fahrrad, 自行车 🚲",
        "describe_prompt": "Describe the image.",
        "model_fingerprint": "model-1",
        "image_digest": context_id("an image"),
        "retention": 0.25,
        "selection": "attention",
        "created_at": 1_700_000_000.25,
    }
    return CompressedContext(**{**fields, **changes})


def assert_same(one: CompressedContext | None, other: CompressedContext) -> None:
    """Fails unless the two are equal in every field and every bit of every tensor."""
    assert one is not None
    for name in CompressedContext.__dataclass_fields__:
        left, right = getattr(one, name), getattr(other, name)
        if isinstance(right, torch.Tensor):
            assert left.dtype == right.dtype, name
            assert left.shape == right.shape, name
            left, right = left.view(torch.uint8), right.contiguous().view(torch.uint8)
            assert torch.equal(left, right), name
        else:
            assert left == right, name
            assert type(left) is type(right), name
