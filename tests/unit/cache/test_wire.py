import gc
import math
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lookonce_cache import (
    FORMAT_VERSION,
    PRECISIONS,
    CompressedContext,
    ContextFormatError,
    ContextKey,
    decode,
    encode,
)
from lookonce_cache.context import FACTS, MAX_DESCRIPTION_BYTES, OPTIONAL_FACTS
from lookonce_cache.format.header import ALIGNMENT, DTYPES, MAX_HEAD_BYTES, decode_head
from lookonce_cache.identity import TEXT_LIMITS

from ...support.cache_samples import assert_same, context_key, make_context
from .sealing import memory_limit, opened, sealed

FLOATS = list(DTYPES.values())


def test_every_field_is_in_the_format():
    fields = set(CompressedContext.__dataclass_fields__)
    assert fields == {*FACTS, *OPTIONAL_FACTS, "identity", "keys", "values", "kept_indices", "scores", "states", "key"}


@st.composite
def states(draw):
    made = {}
    for name in draw(st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True), max_size=4, unique=True)):
        shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
        made[name] = torch.randn(shape).to(draw(st.sampled_from(FLOATS)))
    return made


@st.composite
def contexts(draw):
    layers, heads, tokens = (draw(st.integers(1, 5)) for _ in range(3))
    head_dim = draw(st.sampled_from([1, 2, 3, 5, 8, 24]))
    grid = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=3)))
    cells = math.prod(grid)
    rows, kept = draw(st.sampled_from([1, layers])), draw(st.integers(0, min(tokens, cells)))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape, dtype = (layers, heads, tokens, head_dim), draw(st.sampled_from(FLOATS))
    indices = [torch.randperm(cells, generator=seed)[:kept].sort().values for _ in range(rows)]
    shared_tokens, first = draw(st.integers(0, 2**31 - 6)), draw(st.integers(0, 2**31 - 2))
    return make_context(
        keys=torch.randn(shape, generator=seed).to(dtype),
        values=torch.randn(shape, generator=seed).to(dtype),
        shared_tokens=shared_tokens,
        moved_by=draw(st.integers(1 - 2**31, 2**31 - 1)),
        full_tokens=draw(st.integers(shared_tokens + tokens, 2**31 - 1)),
        kept_indices=torch.stack(indices).int(),
        scores=torch.rand(cells, generator=seed),
        grid=grid,
        layout=draw(st.sampled_from([None, ((1, 1, *grid[-2:], 0, 0.0, -0.25, 1.0, 1.25),)])),
        states=draw(states()),
        description=draw(st.text(max_size=100)),
        created_at=draw(st.floats(0, 1e12)),
        tenant=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)),
        describe_prompt=draw(st.text(max_size=100)),
        retention=draw(st.floats(0, 1)),
        window=(first, draw(st.integers(first + 1, 2**31 - 1))),
        precision=draw(st.sampled_from(PRECISIONS)),
    )


@given(contexts(), st.sampled_from([bytes, bytearray, memoryview]))
@settings(max_examples=200, deadline=None)
def test_round_trip(context, kind):
    data = encode(context)
    assert_same(decode(kind(data), context.key), context)
    assert encode(decode(data, context.key)) == data


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_precision_gives_the_same_numbers_back(dtype, precision):
    keys = torch.randn(2, 3, 7, 20).to(dtype)
    context = make_context(keys=keys, values=-keys, precision=precision)
    decoded = decode(encode(context), context.key)
    assert_same(decoded, context)
    assert torch.equal(decoded.keys.dequantize(), context.keys.dequantize())
    assert torch.equal(decoded.values.dequantize(), context.values.dequantize())


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_bit_pattern_survives(dtype):
    keys = torch.arange(2**16).to(torch.uint16).view(dtype).reshape(2, 4, 64, -1)
    context = make_context(keys=keys, values=keys, full_tokens=100)
    assert_same(decode(encode(context), context.key), context)


def test_tensors_that_are_not_contiguous():
    keys = torch.randn(4, 7, 3, 2).permute(3, 2, 1, 0)
    indices, scores = torch.arange(6, dtype=torch.int32).reshape(3, 2).T, torch.rand(24)[::2]
    context = make_context(keys=keys, values=keys, kept_indices=indices, scores=scores)
    assert_same(decode(encode(context), context.key), context)


def test_tensors_that_learn():
    keys = torch.randn(2, 3, 7, 4, requires_grad=True)
    context = make_context(keys=keys, values=keys)
    assert not decode(encode(context), context.key).keys.parts[0].requires_grad


@pytest.mark.parametrize("character", ["x", "é", "🚲", "\0"])
def test_the_longest_texts_fit(character):
    limits = {**TEXT_LIMITS, "description": MAX_DESCRIPTION_BYTES}
    texts = {name: character * (limit // len(character.encode())) for name, limit in limits.items()}
    context = make_context(**texts, tenant="t" * 64)
    data = encode(context)
    assert_same(decode(data, context.key), context)
    assert decode_head(data[:MAX_HEAD_BYTES], context.key).total == len(data)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensors_are_aligned_in_the_value(precision):
    context = make_context(precision=precision)
    assert all(spec.start % ALIGNMENT == 0 for spec in decode_head(encode(context), context.key).tensors.values())


def test_tensors_lie_in_the_bytes_and_keep_them_alive():
    keys = torch.randn(2, 3, 4096, 64)
    made = make_context(keys=keys, values=keys, full_tokens=5000)
    data = encode(made)
    context = decode(data, made.key)
    first = np.frombuffer(data, dtype=np.uint8).ctypes.data
    assert first < context.keys.parts[0].data_ptr() < context.values.parts[0].data_ptr() < first + len(data)
    codes = context.keys.parts[0]
    del data, context
    gc.collect()
    assert torch.equal(codes, keys)


def test_a_writable_buffer_is_shared():
    data = bytearray(encode(make_context()))
    context = decode(data, context_key())
    start = decode_head(data, context.key).tensors["keys.codes"].start
    data[start : start + 4] = struct.pack("<f", 42.0)
    assert context.keys.parts[0][0, 0, 0, 0] == 42


DATA = encode(make_context())
KEY = make_context().key


def refused(data, expected=KEY):
    with pytest.raises(ContextFormatError) as caught:
        decode(data, expected)
    assert f"[{caught.value.reason}]" in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_truncation_is_refused(precision):
    data = encode(make_context(precision=precision))
    key = make_context(precision=precision).key
    assert {refused(data[:length], key) for length in range(len(data))} == {"truncated"}


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_is_refused(flip):
    reasons = {refused(DATA[:at] + bytes([DATA[at] ^ flip]) + DATA[at + 1 :]) for at in range(len(DATA))}
    assert reasons <= {"foreign", "version", "truncated", "trailing", "header", "checksum"}
    assert "checksum" in reasons


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (DATA + b"\0", "trailing"),
        (DATA + DATA, "trailing"),
        (b"\x80\x04 of another format" + DATA, "foreign"),
        (b"{}", "foreign"),
        (bytes(100), "foreign"),
        (DATA[:8] + struct.pack("<I", FORMAT_VERSION + 1) + DATA[12:], "version"),
        (DATA[:8] + struct.pack("<I", 0) + DATA[12:], "version"),
        (DATA[:12] + struct.pack("<I", 2**32 - 1) + DATA[16:], "header"),
        (DATA[:24] + bytes([DATA[24] ^ 1]) + DATA[25:], "checksum"),
        (DATA[:-17] + bytes([DATA[-17] ^ 1]) + DATA[-16:], "checksum"),
        (sealed(*opened(DATA), version=FORMAT_VERSION + 1), "version"),
    ],
)
def test_reasons(data, reason):
    assert refused(data) == reason


def test_the_head_is_verified_without_the_rest():
    head = decode_head(DATA, KEY)
    end = head.tensors["keys.codes"].start
    assert decode_head(DATA[:end], KEY) == head
    with pytest.raises(ContextFormatError) as caught:
        decode_head(DATA[:24] + bytes([DATA[24] ^ 1]) + DATA[25:end], KEY)
    assert caught.value.reason == "checksum"


@pytest.mark.parametrize(
    "expected",
    [
        context_key("another image"),
        context_key(tenant="globex"),
        make_context(precision="int4").key,
        make_context(retention=0.5).key,
        ContextKey("globex", KEY.id),
        ContextKey("acme", "0" * 64),
    ],
)
def test_a_value_under_another_contexts_key_is_refused(expected):
    assert refused(DATA, expected) == "foreign"


def test_swapped_values_are_refused():
    one, other = make_context("one"), make_context("other")
    assert refused(encode(one), other.key) == "foreign"
    assert refused(encode(other), one.key) == "foreign"


def test_an_identity_forged_to_have_the_key_is_that_of_the_context_asked_for():
    """Whoever forges a value can choose its tensors, but not say that they belong to another identity."""
    forged = sealed(opened(DATA).header, opened(encode(make_context("another", image_digest="0" * 64))).tensors)
    assert decode(forged, KEY).identity == make_context().identity


def large_context():
    return make_context(keys=torch.zeros(2, 4, 1000, 512), values=torch.zeros(2, 4, 1000, 512), full_tokens=2000)


def test_an_honest_value_is_not_copied():
    context = large_context()
    data = encode(context)
    with memory_limit(len(data) // 2):
        assert decode(data, context.key).nbytes == context.nbytes


def test_a_damaged_value_allocates_nothing():
    context = large_context()
    data = bytearray(encode(context))
    data[-100] ^= 1
    value = bytes(data)
    tracemalloc.start()
    with memory_limit(len(value) // 2):
        assert refused(value, context.key) == "checksum"
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
