import random
import struct
from contextlib import suppress

import msgpack
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lookonce_cache import FORMAT_VERSION, CompressedContext, ContextFormatError, decode, encode
from lookonce_cache.context import TEXT_LIMITS
from lookonce_cache.header import ALIGNMENT, FACTS, MAX_HEAD_BYTES, PREFIX, TENSORS, checksum, decode_head

from .samples import assert_same, context_id, make_context

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def test_every_field_is_in_the_format():
    assert {*FACTS, *TENSORS} == set(CompressedContext.__dataclass_fields__)


@st.composite
def contexts(draw):
    layers, heads, tokens, head_dim = (draw(st.integers(1, 5)) for _ in range(4))
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rows, kept = draw(st.sampled_from([1, layers])), draw(st.integers(0, min(tokens, height * width)))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape, dtype = (layers, heads, tokens, head_dim), draw(st.sampled_from(DTYPES))
    indices = [torch.randperm(height * width, generator=seed)[:kept].sort().values for _ in range(rows)]
    return make_context(
        keys=torch.randn(shape, generator=seed).to(dtype),
        values=torch.randn(shape, generator=seed).to(dtype),
        next_position=tokens,
        image_tokens=height * width,
        kept_indices=torch.stack(indices).int(),
        scores=torch.rand(height * width, generator=seed),
        grid=(height, width),
        description=draw(st.text(max_size=100)),
        describe_prompt=draw(st.text(max_size=100)),
        retention=draw(st.floats(0, 1)),
        created_at=draw(st.floats(0, 1e12)),
    )


@given(contexts(), st.sampled_from([bytes, bytearray, memoryview]))
@settings(max_examples=150, deadline=None)
def test_round_trip(context, kind):
    assert_same(decode(kind(encode(context)), context.id), context)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_pattern_survives(dtype):
    keys = torch.arange(2**16).to(torch.uint16).view(dtype).reshape(2, 4, 64, -1)
    context = make_context(keys=keys, values=keys, next_position=64)
    assert_same(decode(encode(context), context.id), context)


def test_tensors_that_are_not_contiguous():
    keys = torch.randn(4, 7, 3, 2).permute(3, 2, 1, 0)
    context = make_context(keys=keys, values=keys)
    assert_same(decode(encode(context), context.id), context)


def test_the_longest_texts_fit():
    context = make_context(**{name: "x" * limit for name, limit in TEXT_LIMITS.items()})
    data = encode(context)
    assert_same(decode(data, context.id), context)
    assert decode_head(data[:MAX_HEAD_BYTES], context.id).total == len(data)


def test_tensors_are_aligned_and_shared_with_a_writable_buffer():
    data = bytearray(encode(make_context()))
    context = decode(data, context_id("a context"))
    specs = decode_head(data, context.id).tensors
    assert all(spec.start % ALIGNMENT == 0 for spec in specs.values())
    data[specs["keys"].start : specs["keys"].start + 4] = struct.pack("<f", 42.0)
    assert context.keys[0, 0, 0, 0] == 42


def test_the_bytes_of_version_1_stay_what_they_are():
    context = make_context(
        keys=torch.arange(168.0).reshape(2, 3, 7, 4), values=torch.zeros(2, 3, 7, 4), scores=torch.arange(12.0)
    )
    assert checksum(encode(context)).hex() == "188d76f0d2f5e3d2381392a45e60e58c"


DATA = encode(make_context())
ID = make_context().id


def refused(data, expected_id=ID):
    with pytest.raises(ContextFormatError) as caught:
        decode(data, expected_id)
    return caught.value.reason


def test_every_truncation_is_refused():
    assert {refused(DATA[:length]) for length in range(len(DATA))} == {"truncated"}


def test_every_flipped_byte_is_refused():
    reasons = {refused(DATA[:at] + bytes([DATA[at] ^ 0x41]) + DATA[at + 1 :]) for at in range(len(DATA))}
    assert reasons <= {"foreign", "version", "truncated", "trailing", "header", "checksum"}
    assert "checksum" in reasons


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (DATA + b"\0", "trailing"),
        (b"\x80\x04pickle" + DATA, "foreign"),
        (b"{}", "foreign"),
        (bytes(100), "foreign"),
        (DATA[:8] + struct.pack("<I", FORMAT_VERSION + 1) + DATA[12:], "version"),
        (DATA[:8] + struct.pack("<I", 0) + DATA[12:], "version"),
        (DATA[:12] + struct.pack("<I", 2**32 - 1) + DATA[16:], "header"),
    ],
)
def test_reasons(data, reason):
    assert refused(data) == reason


@pytest.mark.parametrize("other_id", ["", "../x", ID.upper(), context_id("another context")])
def test_another_contexts_value_is_refused(other_id):
    assert refused(DATA, other_id) == "foreign"


def header_of(data):
    return msgpack.unpackb(data[PREFIX.size : PREFIX.size + PREFIX.unpack_from(data)[2]])


def sealed(header, body=None, total=None):
    """A value around `header`, with valid checksums: what a liar who knows the format would send."""
    body = DATA[PREFIX.size + PREFIX.unpack_from(DATA)[2] + 16 : -16] if body is None else body
    total = PREFIX.size + len(header) + 16 + len(body) + 16 if total is None else total
    head = PREFIX.pack(b"lookonce", FORMAT_VERSION, len(header), total) + header
    value = head + checksum(head) + body
    return value + checksum(value)


def with_tensor(index, **changes):
    header = header_of(DATA)
    name, dtype, shape = header["tensors"][index]
    header["tensors"][index] = [changes.get("name", name), changes.get("dtype", dtype), changes.get("shape", shape)]
    return msgpack.packb(header)


def with_field(**changes):
    return msgpack.packb({**header_of(DATA), **changes})


def test_sealed_values_are_otherwise_good():
    assert_same(decode(sealed(with_field()), ID), make_context())


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\xdf\xff\xff\xff\xff",  # a map of four billion entries
        b"\xdd\xff\xff\xff\xff",  # an array of four billion
        b"\xc6\xff\xff\xff\xff",  # four gigabytes of bytes
        b"\xc9\xff\xff\xff\xff\x01",  # an extension of four gigabytes
        b"\x91" * 10_000 + b"\x90",  # nested ten thousand deep
        msgpack.packb([]),
        msgpack.packb({1: 2}),
        msgpack.packb(header_of(DATA)) + b"\0",
        with_field(surprise=1),
        msgpack.packb({name: value for name, value in header_of(DATA).items() if name != "grid"}),
        with_field(next_position="7"),
        with_field(next_position=7.0),
        with_field(next_position=2**63),
        with_field(image_tokens=-1),
        with_field(image_tokens=True),
        with_field(retention=1),
        with_field(retention=float("nan")),
        with_field(created_at=msgpack.Timestamp(0)),
        with_field(selection=b"attention"),
        with_field(selection=msgpack.ExtType(1, b"")),
        with_field(grid=[3, 4, 1]),
        with_field(grid=[[3], 4]),
        with_field(grid={}),
        with_field(description=None),
        with_field(description="x" * 30_000),
        with_field(image_digest="0"),
        with_field(tensors=[]),
        with_field(tensors=7),
        with_field(tensors=[1, 2, 3, 4]),
        with_field(tensors=[[[], "int32", [1]]] * 4),
        with_tensor(0, name="values"),
        with_tensor(0, dtype="int32"),
        with_tensor(0, dtype="float64"),
        with_tensor(0, dtype=["float32"]),
        with_tensor(0, shape=[2, 3, 7, 2**31 - 1]),
        with_tensor(0, shape=[2**31 - 1] * 4),
        with_tensor(0, shape=[2**31 - 1, 2**31 - 1, 2**31 - 1, 0]),
        with_tensor(0, shape=[2**63, 0, 1, 1]),
        with_tensor(0, shape=[2, 3, 7, -4]),
        with_tensor(0, shape=[2, 3, 7, 4.0]),
        with_tensor(0, shape=[True, 6, 7, 4]),
        with_tensor(0, shape=[3, 2, 7, 4]),
        with_tensor(0, shape=[2, 3, 4, 7]),
        with_tensor(0, shape=[168]),
        with_tensor(0, shape=[]),
        with_tensor(0, shape=[1] * 1000),
        with_tensor(0, shape="2374"),
        with_tensor(2, shape=[3, 2]),
        with_tensor(2, dtype="float32"),
    ],
)
def test_lying_headers_are_refused(header):
    assert refused(sealed(header)) == "header"


def test_sizes_that_agree_with_each_other_but_not_with_the_bytes_allocate_nothing():
    header = with_tensor(0, shape=[2, 3, 7, 2**30])
    total = PREFIX.size + len(header) + 16
    for nbytes in (2 * 3 * 7 * 2**30 * 4, 2 * 3 * 7 * 4 * 4, 2 * 3 * 4, 12 * 4):
        total = -(-total // ALIGNMENT) * ALIGNMENT + nbytes
    assert refused(sealed(header, total=total + 16)) == "truncated"
    assert refused(sealed(header, total=total + 17)) == "header"


def test_indices_that_point_outside_the_image_are_refused():
    body = bytearray(DATA)
    start = decode_head(DATA, ID).tensors["kept_indices"].start
    body[start : start + 4] = struct.pack("<i", -1)
    assert refused(bytes(body[:-16]) + checksum(bytes(body[:-16]))) == "header"


def test_mutated_values_are_refused_or_whole():
    """Random damage, half of it under valid checksums: nothing but ContextFormatError ever comes out."""
    seed = random.randrange(2**32)
    print(f"seed={seed}")  # noqa: T201, to repeat a failure with
    chance = random.Random(seed)
    header = msgpack.packb(header_of(DATA))
    for _ in range(3000):
        data = mutated(DATA, chance) if chance.random() < 0.5 else sealed(mutated(header, chance))
        with suppress(ContextFormatError):
            decode(data, ID)


def mutated(data, chance):
    data = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at, length = chance.randrange(len(data)), chance.randint(1, 9)
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                data[at : at + length] = chance.randbytes(length)
            case 2:
                del data[at : at + length]
                data = data or bytearray(1)
            case 3:
                data[at:at] = data[chance.randrange(len(data)) :][:length]
    return bytes(data)
