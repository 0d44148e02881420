import time
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from lookonce_cache import PRECISIONS, CacheError, InvalidContextError, quantize

from ...support.cache_samples import assert_same, make_context, make_identity


def test_sizes():
    context = make_context()
    assert context.stored_tokens == 7
    assert context.tokens == 9
    assert context.kept_tokens == 3
    assert context.image_tokens == 12
    assert context.nbytes == 2 * (2 * 3 * 7 * 4 * 4) + 2 * 3 * 4 + 12 * 4


@pytest.mark.parametrize("precision", PRECISIONS)
def test_size_is_that_of_what_is_stored(precision):
    context = make_context(precision=precision)
    context = replace(context, states={"conv": torch.ones(3, 5, dtype=torch.bfloat16)})
    parts = [*context.keys.parts, *context.values.parts, context.kept_indices, context.scores, *context.states.values()]
    assert context.nbytes == sum(part.numel() * part.itemsize for part in parts)


def test_the_key_is_the_identitys():
    context = make_context()
    assert context.key == make_identity().key()
    assert (context.key.tenant, context.key.id) == ("acme", context.id)


def test_a_context_cannot_be_given_a_key():
    with pytest.raises(TypeError, match="key"):
        make_context(key=make_context("another").key)
    identity = make_identity("another")
    assert replace(make_context(), identity=identity).key == identity.key()


def test_one_row_of_indices_serves_all_layers():
    assert make_context(kept_indices=torch.tensor([[0, 11]], dtype=torch.int32)).kept_tokens == 2


@pytest.mark.parametrize("rows", [1, 2])
def test_no_image_token_need_be_kept(rows):
    assert make_context(kept_indices=torch.empty(rows, 0, dtype=torch.int32), retention=0.0).kept_tokens == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"shared_tokens": 0},
        {"shared_tokens": 13},  # so that nothing was left out
        {"shared_tokens": 2**31 - 8, "full_tokens": 2**31 - 1},
        {"moved_by": 0},
        {"moved_by": 2**31 - 1},
        {"moved_by": 1 - 2**31},
        {"created_at": 0.0},
        {"description": ""},
        {"grid": (1, 12)},
        {"grid": (3, 2, 2)},  # of a video
        {"grid": (1, 12), "layout": ((2, 1, 2, 2, 0, 0.0, 0.0, 1.0, 1.0), (1, 1, 2, 1, 1, 0.0, 0.0, 1.0, 1.0))},
        {"grid": (2, 1, 6), "layout": ((1, 1, 2, 3, 0, 0.0, 0.0, 1.0, 1.0),)},  # of each frame
        {"window": (0, 1)},
    ],
)
def test_the_ends_of_ranges_are_inside(changes):
    context = make_context(**changes)
    for name, value in changes.items():
        assert getattr(context.identity if name == "window" else context, name) == value


def test_is_frozen_and_prints_no_tensors():
    context = make_context()
    with pytest.raises(FrozenInstanceError):
        context.shared_tokens = 8
    assert "tensor" not in repr(context)


def test_making_one_prints_no_tensors_either():
    """Texts for errors that never happen took milliseconds a context once, a hundred times what the checks do."""
    context = make_context(
        scores=torch.rand(4096), grid=(64, 64), kept_indices=torch.arange(1500, dtype=torch.int32)[:7][None]
    )
    seconds = []
    for _ in range(20):
        begun = time.perf_counter()
        replace(context)
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.002


def test_contexts_are_what_they_are_made_of():
    assert_same(make_context(), make_context())


def indices(*rows):
    return torch.tensor(rows, dtype=torch.int32)


DENSE = torch.zeros(2, 3, 7, 4)


CONTRADICTIONS = [
    ({"description": 5}, "description must be a str, not int"),
    ({"description": "\ud800"}, "description has lone surrogates"),
    ({"description": "é" * 12_289}, "description has 24578 bytes of UTF-8, the limit is 24576"),
    ({"shared_tokens": -1}, "shared_tokens must be an int from 0 on, not -1"),
    ({"shared_tokens": 2.0}, "shared_tokens must be an int"),
    ({"shared_tokens": False}, "shared_tokens must be an int"),
    ({"shared_tokens": 2**31}, "shared_tokens must be an int"),
    ({"shared_tokens": 14}, "21 tokens cannot come from full_tokens=20"),
    ({"moved_by": 1.0}, "moved_by must be an int"),
    ({"moved_by": 2**31}, "moved_by must be an int"),
    ({"moved_by": -(2**31)}, "moved_by must be an int"),
    ({"full_tokens": 0}, "full_tokens must be a positive int, not 0"),
    ({"full_tokens": 8}, "9 tokens cannot come from full_tokens=8"),
    ({"full_tokens": True}, "full_tokens must be a positive int, not True"),
    ({"grid": (3, 5)}, r"grid \(3, 5\) does not have a cell for each of 12 scores"),
    ({"grid": [3, 4]}, "grid must be two positive ints"),
    ({"grid": (3, 2, 2, 1)}, "grid must be two positive ints"),
    ({"grid": (-3, -4)}, "grid must be two positive ints"),
    ({"created_at": float("inf")}, "created_at must be unix seconds"),
    ({"created_at": -1.0}, "created_at must be unix seconds"),
    ({"created_at": 5}, "created_at must be unix seconds"),
    ({"keys": [1.0]}, "keys must be a QuantizedTensor, not list"),
    ({"keys": quantize(DENSE, "values", "native")}, "keys must be stored as keys, not as values"),
    ({"values": quantize(DENSE, "keys", "native")}, "values must be stored as values, not as keys"),
    ({"keys": quantize(DENSE, "keys", "int8")}, "keys are stored as int8, the identity says native"),
    ({"precision": "int4", "values": quantize(DENSE, "values", "fp8")}, "values are stored as fp8, .* says int4"),
    ({"keys": torch.zeros(2, 3, 7, 4, dtype=torch.float64)}, "keys must be torch.float32 or .*, not torch.float64"),
    ({"keys": torch.zeros(3, 7, 4)}, "keys must have 4 dimensions"),
    ({"keys": torch.zeros(2, 3, 0, 4)}, "keys must have 4 dimensions and not be empty"),
    ({"values": torch.zeros(2, 3, 7, 5)}, r"values torch.float32 \(2, 3, 7, 5\) must be like keys"),
    ({"values": torch.zeros(2, 3, 7, 4, dtype=torch.float16)}, "values torch.float16 .* must be like keys"),
    ({"scores": [1.0]}, "scores must be a torch.float32 tensor with 1 dimensions, not list"),
    ({"layout": ((1, 1, 3, 3, 0, 0.0, 0.0, 1.0, 1.0),)}, r"layout has 9 tokens, not the 12 of grid \(3, 4\)"),
    ({"layout": [(1, 1, 3, 4, 0, 0.0, 0.0, 1.0, 1.0)]}, "layout must be 1 to 16 blocks of five ints and four floats"),
    ({"scores": torch.zeros(11)}, r"grid \(3, 4\) does not have a cell for each of 11 scores"),
    ({"scores": torch.zeros(12, dtype=torch.float16)}, "scores must be .*, not a torch.float16 tensor"),
    ({"scores": torch.zeros(12, 1)}, "not a torch.float32 tensor with 2 dimensions"),
    ({"scores": torch.zeros(12, device="meta")}, "scores must be on the CPU, not on meta"),
    ({"kept_indices": torch.tensor([[1]])}, "kept_indices must be a torch.int32 .*, not a torch.int64"),
    ({"kept_indices": indices(1, 2)}, "kept_indices must be .* with 2 dimensions, not .* with 1"),
    ({"kept_indices": indices([1], [2], [3])}, "must have 1 row or 2, one a layer, not 3"),
    ({"kept_indices": torch.empty(0, 3, dtype=torch.int32)}, "must have 1 row or 2, one a layer, not 0"),
    ({"kept_indices": indices([1, 12])}, r"must lie in \[0, 12\)"),
    ({"kept_indices": indices([-1, 2])}, r"must lie in \[0, 12\)"),
    ({"kept_indices": indices([2, 1])}, "strictly ascending"),
    ({"kept_indices": indices([1, 2], [3, 3])}, "strictly ascending"),
    ({"states": [("conv", torch.ones(2))]}, "states must be a mapping, not list"),
    ({"states": {"conv": [1.0]}}, "state 'conv' must be a tensor, not list"),
    ({"states": {"conv": torch.ones(2, device="meta")}}, "state 'conv' must be on the CPU, not on meta"),
    ({"states": {"Conv": torch.ones(2)}}, "a state has a name of its own, .* not 'Conv'"),
    ({"states": {"conv": torch.ones(2, dtype=torch.float64)}}, r"a state is torch.float32 .*, not torch.float64"),
    ({"states": {"conv": torch.ones(2, 0)}}, r"a state has 1 to 5 sizes, all above 0, not \(2, 0\)"),
    ({"states": {"conv": torch.tensor(1.0)}}, r"a state has 1 to 5 sizes, all above 0, not \(\)"),
    ({"states": {f"s{i}": torch.ones(1) for i in range(5)}}, "there are at most 4 states, not 5"),
    ({"kept_indices": indices(list(range(8)))}, "8 kept image tokens do not fit in 7 tokens"),
]


def test_contradictions_are_refused(subtests):
    for changes, message in CONTRADICTIONS:
        with subtests.test(repr(changes)[:200]):
            with pytest.raises(InvalidContextError, match=message) as caught:
                make_context(**changes)
            assert isinstance(caught.value, ValueError)
            assert isinstance(caught.value, CacheError)


def test_an_identity_of_another_type_is_refused():
    with pytest.raises(InvalidContextError, match="identity must be a ContextIdentity, not dict"):
        replace(make_context(), identity={})
