from dataclasses import FrozenInstanceError

import pytest
import torch

from lookonce_cache import CacheError, InvalidContextError

from .samples import make_context


def test_sizes():
    context = make_context()
    assert context.tokens == 7
    assert context.kept_tokens == 3
    assert context.nbytes == 2 * (2 * 3 * 7 * 4 * 4) + 2 * 3 * 4 + 12 * 4


def test_one_row_of_indices_serves_all_layers():
    assert make_context(kept_indices=torch.tensor([[0, 11]], dtype=torch.int32)).kept_tokens == 2


def test_no_image_token_need_be_kept():
    assert make_context(kept_indices=torch.empty(1, 0, dtype=torch.int32), retention=0.0).kept_tokens == 0


def test_is_frozen_and_prints_no_tensors():
    context = make_context()
    with pytest.raises(FrozenInstanceError):
        context.next_position = 8
    assert "tensor" not in repr(context)


def indices(*rows):
    return torch.tensor(rows, dtype=torch.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "abc"}, "id must be 64 hex digits, not 'abc'"),
        ({"id": "A" * 64}, "id must be 64 hex digits"),
        ({"image_digest": None}, "image_digest must be 64 hex digits"),
        ({"description": 5}, "description must be a str, not int"),
        ({"description": "\ud800"}, "description has lone surrogates"),
        ({"describe_prompt": "é" * 12_289}, "describe_prompt has 24578 bytes of UTF-8, the limit is 24576"),
        ({"next_position": 8}, "next_position=8 must equal its 7 tokens"),
        ({"full_tokens": 0}, "full_tokens must be a positive int, not 0"),
        ({"image_tokens": True}, "image_tokens must be a positive int, not True"),
        ({"grid": (3, 5)}, r"grid \(3, 5\) does not have image_tokens=12 cells"),
        ({"grid": [3, 4]}, "grid must be two positive ints"),
        ({"retention": 1.01}, "retention must be a float between 0 and 1, not 1.01"),
        ({"retention": float("nan")}, "retention must be a float"),
        ({"created_at": float("inf")}, "created_at must be unix seconds"),
        ({"keys": [1.0]}, "keys must be a tensor, not list"),
        ({"keys": torch.zeros(2, 3, 7, 4, dtype=torch.float64)}, "keys must be torch.float32 or .*, not torch.float64"),
        ({"keys": torch.zeros(3, 7, 4)}, "keys must have 4 dimensions, not 3"),
        ({"keys": torch.zeros(2, 3, 0, 4)}, "keys must not be empty"),
        ({"keys": torch.zeros(2, 3, 7, 4, device="meta")}, "keys must be on the CPU, not on meta"),
        ({"values": torch.zeros(2, 3, 7, 5)}, r"values torch.float32 \(2, 3, 7, 5\) must be like keys"),
        ({"values": torch.zeros(2, 3, 7, 4, dtype=torch.float16)}, "values torch.float16 .* must be like keys"),
        ({"scores": torch.zeros(11)}, "must have one value for each of 12 image tokens"),
        ({"kept_indices": torch.tensor([[1]])}, "kept_indices must be torch.int32, not torch.int64"),
        ({"kept_indices": indices([1], [2], [3])}, "must have 1 row or 2, one a layer, not 3"),
        ({"kept_indices": indices([1, 12])}, r"must lie in \[0, 12\)"),
        ({"kept_indices": indices([-1, 2])}, r"must lie in \[0, 12\)"),
        ({"kept_indices": indices([2, 1])}, "strictly ascending"),
        ({"kept_indices": indices([1, 2], [3, 3])}, "strictly ascending"),
        ({"kept_indices": indices(list(range(8)))}, "8 kept image tokens do not fit in 7 tokens"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(InvalidContextError, match=message) as caught:
        make_context(**changes)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, CacheError)
