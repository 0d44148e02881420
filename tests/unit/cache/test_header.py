"""Headers that lie, under valid checksums: each is refused, for the reason meant, and costs nothing."""

import math
import struct
import tracemalloc

import msgpack
import pytest
import torch

from lookonce_cache import PRECISIONS, ContextFormatError, ContextIdentity, decode, encode
from lookonce_cache.context import OPTIONAL_FACTS
from lookonce_cache.format import header as header_module
from lookonce_cache.format.header import ALIGNMENT, MAX_HEADER_BYTES, decode_head

from ...support.cache_samples import assert_same, make_context
from .sealing import aligned, header_of, memory_limit, opened, packed, sealed

DATA = encode(make_context())
KEY = make_context().key
TENSORS = opened(DATA).tensors


def refusal(data, expected=KEY):
    with pytest.raises(ContextFormatError) as caught:
        decode(data, expected)
    return caught.value


def with_fields(**changes):
    return msgpack.packb({**header_of(DATA), **changes})


def with_identity(**changes):
    return with_fields(identity={**header_of(DATA)["identity"], **changes})


def with_raw_retention(value):
    """A header with any bytes as the identity's retention."""
    return with_identity(retention="here").replace(msgpack.packb("here"), value)


def without(name, of=None):
    fields = header_of(DATA)
    del (fields if of is None else fields[of])[name]
    return msgpack.packb(fields)


def twice(name):
    """A header with a field twice; the second is the true one."""
    pairs = [(key, msgpack.packb(value)) for key, value in header_of(DATA).items()]
    return packed([(name, msgpack.packb(None)), *pairs])


def identity_twice(name):
    fields = header_of(DATA)
    pairs = [(key, msgpack.packb(value)) for key, value in fields["identity"].items()]
    identity = packed([(name, msgpack.packb(None)), *pairs])
    return packed([(key, identity if key == "identity" else msgpack.packb(value)) for key, value in fields.items()])


def test_sealed_values_are_otherwise_good():
    assert_same(decode(sealed(with_fields(), TENSORS), KEY), make_context())


def test_fields_may_come_in_any_order_and_any_size_of_number():
    fields = header_of(DATA)
    header = packed([(name, msgpack.packb(fields[name])) for name in reversed(fields)])
    assert_same(decode(sealed(header, TENSORS), KEY), make_context())
    wide = header.replace(b"\xabfull_tokens\x14", b"\xabfull_tokens\xcf" + struct.pack(">Q", 20))
    assert len(wide) == len(header) + 8
    assert_same(decode(sealed(wide, TENSORS), KEY), make_context())


LYING_STATES = [
    ([], "states is no array"),
    (7, "states is no array"),
    ({"conv": 1}, "states is no array"),
    ("conv", "states is no array"),
    ([7], "a state is not a name"),
    (["conv"], "a state is not a name"),
    ([["conv", "float32"]], "a state is not a name"),
    ([["conv", "int8", 2]], "dtype is none of"),
    ([["conv", ["float32"], 2]], "dtype is none of"),
    ([[7, "float32", 2]], "a name of its own"),
    ([[[], "float32", 2]], "a name of its own"),
    ([["", "float32", 2]], "a name of its own"),
    ([["Conv", "float32", 2]], "a name of its own"),
    ([["conv.", "float32", 2]], "a name of its own"),
    ([["conv\n", "float32", 2]], "a name of its own"),
    ([["c" * 33, "float32", 2]], "a name of its own"),
    ([["conv", "float32", 2], ["conv", "float32", 2]], "a name of its own"),
    ([["conv", "float32", *[1] * 6]], "has 1 to 5 sizes"),
    ([["conv", "float32", 0]], "has 1 to 5 sizes"),
    ([["conv", "float32", 2, -1]], "has 1 to 5 sizes"),
    ([["conv", "float32", 2.0]], "has 1 to 5 sizes"),
    ([["conv", "float32", True]], "has 1 to 5 sizes"),
    ([["conv", "float32", 2**31]], "has 1 to 5 sizes"),
    ([["conv", "float32", [2]]], "has 1 to 5 sizes"),
    ([["conv", "float32", 2**24, 2**24]], "less than 2**48 elements"),
    ([[f"state{i}", "float32", 1] for i in range(5)], "at most 4 states"),
    ([["state", "float32", 1]] * 17, "not msgpack"),
    ([["conv", "float32", 2**23, 2**23]], "the tensors add up to"),
    ([["conv", "float32", 1]], "the tensors add up to"),
]
LYING_HEADERS = [
    (b"", "not msgpack"),
    (b"\xc1", "not msgpack"),
    (b"\xdf\xff\xff\xff\xff", "not msgpack"),  # a map of four billion entries
    (b"\xdd\xff\xff\xff\xff", "not msgpack"),  # an array of four billion
    (b"\xdb\xff\xff\xff\xff", "not msgpack"),  # four gigabytes of text
    (b"\xc6\xff\xff\xff\xff", "not msgpack"),  # of bytes
    (b"\xc9\xff\xff\xff\xff\x01", "not msgpack"),  # an extension of four gigabytes
    (b"\xc7\x00\xff", "not msgpack"),  # a time of no bytes
    (b"\x91" * 10_000 + b"\x90", "not msgpack"),  # nested ten thousand deep
    (b"\x81\x91\x01\x01", "not msgpack"),  # a map with an array as its key
    (b"\x81\x81\x01\x01\x01", "not msgpack"),  # with a map as its key
    (msgpack.packb({1: 2}), "not msgpack"),
    (msgpack.packb("\ud800", unicode_errors="surrogatepass"), "not msgpack"),
    (with_fields() + b"\0", "not msgpack"),
    (twice("description"), "a key twice"),
    (twice("identity"), "a key twice"),
    (identity_twice("tenant"), "a key twice"),
    (msgpack.packb([]), "exactly the fields"),
    (msgpack.packb(None), "exactly the fields"),
    (msgpack.packb({}), "exactly the fields"),
    (with_fields(surprise=1), "exactly the fields"),
    *((without(name), "exactly the fields") for name in header_of(DATA)),
    (with_fields(shared_tokens="2"), "shared_tokens must be an int"),
    (with_fields(shared_tokens=2.0), "shared_tokens must be an int"),
    (with_fields(shared_tokens=True), "shared_tokens must be an int"),
    (with_fields(shared_tokens=-1), "shared_tokens must be an int"),
    (with_fields(moved_by=None), "moved_by must be an int"),
    (with_fields(moved_by=2**31), "moved_by must be an int"),
    (with_fields(moved_by=-(2**63)), "moved_by must be an int"),
    (with_fields(full_tokens=0), "full_tokens must be a positive int"),
    (with_fields(full_tokens=2**64 - 1), "full_tokens must be a positive int"),
    (with_fields(full_tokens=8), "9 tokens cannot come from full_tokens=8"),
    (with_fields(shared_tokens=14), "21 tokens cannot come from"),
    (with_fields(created_at=1), "created_at must be unix seconds"),
    (with_fields(created_at=float("nan")), "created_at must be unix seconds"),
    (with_fields(created_at=float("inf")), "created_at must be unix seconds"),
    (with_fields(created_at=msgpack.Timestamp(0)), "not msgpack"),
    (with_fields(description=None), "description must be a str"),
    (with_fields(description=b""), "description must be a str"),
    (with_fields(description=b"bytes"), "not msgpack"),
    (with_fields(description=msgpack.ExtType(1, b"")), "description must be a str"),
    (with_fields(description="x" * 24_577), "description has 24577 bytes"),
    (with_fields(grid=[3, 4, 1, 1]), "grid is impossible"),
    (with_fields(grid=[[3], 4]), "grid is impossible"),
    (with_fields(grid={}), "grid is impossible"),
    (with_fields(grid=[2**31 - 1, 2**31 - 1]), "grid is impossible"),
    (with_fields(grid=[0, 12]), "grid is impossible"),
    (with_fields(grid=[3, 5]), "the tensors add up to"),
    (with_fields(layout=None), "without a value"),
    (with_fields(layout=[]), "layout must be 1 to 16 blocks"),
    (with_fields(layout=12), "layout must be 1 to 16 blocks"),
    (with_fields(layout=[[1, 1, 3, 4, 0, 0.0, 0.0, 1.0]]), "layout must be 1 to 16 blocks"),
    (with_fields(layout=[[1, 1, 3, 4, 0, 0, 0, 1, 1]]), "layout must be 1 to 16 blocks"),
    (with_fields(layout=[[1, 1, 3, 4, 0.0, 0.0, 0.0, 1.0, 1.0]]), "layout must be 1 to 16 blocks"),
    (with_fields(layout=[[1, 1, 3, 4, False, 0.0, 0.0, 1.0, 1.0]]), "layout must be 1 to 16 blocks"),
    (with_fields(layout=[[1, 1, 3, 2, 2, 0.0, 0.0, 1.0, 1.0]]), "layout must be 1 to 16 blocks"),
    (with_fields(layout=[[1, 1, -3, -4, 0, 0.0, 0.0, 1.0, 1.0]]), "layout must be 1 to 16 blocks"),
    (with_fields(layout=[[1, 1, 3, 4, 0, 0.0, 0.0, 1.0, float("inf")]]), "layout must be 1 to 16 blocks"),
    (with_fields(layout=[[1, 1, 3, 4, 0, 0.0, 0.0, 1.0, float("nan")]]), "layout must be 1 to 16 blocks"),
    (with_fields(layout=[[1, 1, 3, 4, 0, 0.0, 0.0, 1.0, 0.0]]), "layout must be 1 to 16 blocks"),
    (with_fields(layout=[[1, 1, 3, 4, 0, 0.0, 0.0, 1.0, 1e-300]]), "layout must be 1 to 16 blocks"),
    (with_fields(layout=[[1, 1, 3, 4, 0, 1.0, 0.0, 0.0, 1.0]]), "layout must be 1 to 16 blocks"),
    (with_fields(layout=[[1, 1, 3, 4, 0, 0.0, 0.0, 0.0, 0.0]]), "layout must be 1 to 16 blocks"),
    (with_fields(layout=[[1, 1, 3, 4, 1, 0.0, 0.0, 1.0, 1.0]]), "layout has 15 tokens"),
    (with_fields(layout=[[2**31 - 1] * 4 + [0, 0.0, 0.0, 1.0, 1.0]]), "layout has"),
    (with_fields(layout=[[1, 1, 1, 1, 0, 0.0, 0.0, 1.0, 1.0]] * 17), "not msgpack"),
    (with_fields(states=None), "without a value"),
    *((with_fields(states=states), message) for states, message in LYING_STATES),
    (with_fields(dtype="int32"), "dtype is none of"),
    (with_fields(dtype="float64"), "dtype is none of"),
    (with_fields(dtype=["float32"]), "dtype is none of"),
    (with_fields(dtype={}), "dtype is none of"),
    (with_fields(dtype="bfloat16"), "the tensors add up to"),
    (with_fields(shape=[2**31 - 1] * 4), "shape is impossible"),
    (with_fields(shape=[2**31 - 1, 2**31 - 1, 2**31 - 1, 0]), "shape is impossible"),
    (with_fields(shape=[2**63, 1, 1, 1]), "shape is impossible"),
    (with_fields(shape=[2, 3, 7, -4]), "shape is impossible"),
    (with_fields(shape=[2, 3, 7, 4.0]), "shape is impossible"),
    (with_fields(shape=[True, 6, 7, 4]), "shape is impossible"),
    (with_fields(shape=[0, 3, 7, 4]), "shape is impossible"),
    (with_fields(shape=[168]), "shape is impossible"),
    (with_fields(shape=[]), "shape is impossible"),
    (with_fields(shape="2374"), "shape is impossible"),
    (with_fields(shape=[1] * 17), "not msgpack"),
    (with_fields(shape=[2, 3, 7, 2**31 - 1]), "the tensors add up to"),
    (with_fields(shape=[2, 3, 7, 64]), "the tensors add up to"),
    (with_fields(shape=[2, 42, 1, 2], kept=[1, 6]), "6 kept image tokens do not fit in 1 tokens"),
    (with_fields(kept=[3, 2]), "kept_indices must have 1 row or 2"),
    (with_fields(kept=[0, 6]), "kept is impossible"),
    (with_fields(kept=[2, -3]), "kept is impossible"),
    (with_fields(kept=[6]), "kept is impossible"),
    (with_fields(kept=[6, 1]), "kept_indices must have 1 row or 2"),
    (with_fields(kept=[2**31 - 1, 0]), "the tensors add up to"),
]


def test_lying_headers_are_refused(subtests):
    for header, message in LYING_HEADERS:
        with subtests.test(repr(header)[:200]):
            error = refusal(sealed(header, TENSORS))
            assert (error.reason, message in str(error)) == ("header", True), str(error)
            assert len(str(error)) < 1000


def test_a_reader_that_does_not_know_states_refuses_a_context_that_has_some(monkeypatch):
    """Even one whose other tensors it could read: an answer without the states would be a wrong one."""
    context = make_context(states={"conv": torch.ones(3, 2, 4)})
    assert_same(decode(encode(context), context.key), context)
    monkeypatch.setattr(header_module, "OPTIONAL", {*OPTIONAL_FACTS})
    error = refusal(encode(context))
    assert (error.reason, "exactly the fields" in str(error)) == ("header", True)


LYING_IDENTITIES = [
    (with_fields(identity=None), "exactly the fields"),
    (with_fields(identity=[]), "exactly the fields"),
    (with_fields(identity={}), "exactly the fields"),
    (with_identity(surprise=1), "exactly the fields"),
    *((without(name, of="identity"), "exactly the fields") for name in header_of(DATA)["identity"]),
    (with_identity(tenant="../acme"), "tenant: '../acme'"),
    (with_identity(tenant="acme\n"), "tenant: "),
    (with_identity(tenant=7), "tenant: 7"),
    (with_identity(tenant={}), "tenant: {}"),
    (with_identity(model_fingerprint=None), "model_fingerprint must be a str"),
    (with_identity(model_fingerprint="x" * 513), "model_fingerprint has 513 bytes"),
    (with_identity(image_digest="0"), "image_digest must be 64"),
    (with_identity(image_digest="F" * 64), "image_digest must be 64"),
    (with_identity(describe_prompt="x" * 24_577), "describe_prompt has 24577 bytes"),
    (with_identity(template_digest=[1]), "template_digest must be 64"),
    (with_identity(retention=1), "retention must be a float"),
    (with_identity(retention=float("nan")), "retention must be a float"),
    (with_identity(retention=-0.1), "retention must be a float"),
    (with_identity(retention={}), "retention must be a float"),
    (with_identity(selection=b""), "selection must be a str"),
    (with_identity(window=[4, 4]), "window must be two ints"),
    (with_identity(window=[-1, 4]), "window must be two ints"),
    (with_identity(window=[False, True]), "window must be two ints"),
    (with_identity(window=[4, 2**31]), "window must be two ints"),
    (with_identity(window=7), "window must be two ints"),
    (with_identity(window=[]), "window must be two ints"),
    (with_identity(precision="float3"), "int4, not 'float3'"),
    (with_identity(precision=[]), "int4, not ()"),
    (with_identity(precision={}), "int4, not {}"),
    (with_identity(format_version=True), "format_version must be a positive int"),
    (with_identity(format_version=2), "another format version"),
]


def test_lying_identities_are_refused(subtests):
    for header, message in LYING_IDENTITIES:
        with subtests.test(repr(header)[:200]):
            error = refusal(sealed(header, TENSORS))
            assert (error.reason, message in str(error)) == ("header", True), str(error)
            assert len(str(error)) < 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"created_at": float("nan")},
        {"created_at": float("inf")},
        {"description": "x" * 24_577},
        {"full_tokens": -1},
        {"shared_tokens": 2**63},
        {"moved_by": "0"},
    ],
)
def test_a_head_is_judged_without_the_tensors(changes):
    """Stores list contexts by their heads alone, and answer with what those say."""
    with pytest.raises(ContextFormatError, match=next(iter(changes))):
        decode_head(sealed(with_fields(**changes), TENSORS)[: -len(TENSORS)], KEY)


@pytest.mark.parametrize("nested", [b"\x91", b"\x81\xa1a"])
@pytest.mark.parametrize("depth", [900, 1015, 1100])
def test_deep_nesting_is_refused(nested, depth):
    """In a field whose error says what was there."""
    error = refusal(sealed(with_raw_retention(nested * depth + b"\x01"), TENSORS))
    assert error.reason == "header"
    assert len(str(error)) < 1000


@pytest.mark.parametrize(
    "header",
    [
        b"\xdd\x00\x00\x75\x30" * 1000 + b"\x01" * 59_000,  # arrays of 30 000 in each other: 240 MB once made
        b"\xdf\x00\x00\x75\x30\xa1a" * 1000 + b"\x01" * 58_000,
        with_raw_retention(b"\xdd\x00\x00\x75\x30" * 1000 + b"\x01" * 58_000),
        with_raw_retention(b"\xdb\x00\x00\xf0\x00" + b"x" * 0xF000),
    ],
)
def test_no_header_takes_more_than_its_own_size(header):
    assert len(header) <= MAX_HEADER_BYTES
    value = sealed(header, TENSORS)
    tracemalloc.start()
    refusal(value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "sizes",
    [{"shape": [2, 3, 2**20, 2**18], "full_tokens": 2**31 - 1}, {"states": [["conv", "float32", 2**20, 2**20]]}],
)
def test_sizes_that_agree_with_each_other_but_not_with_the_bytes_allocate_nothing(precision, sizes):
    """A forged value of a few kilobytes that says, consistently, that it has terabytes."""
    context = make_context(precision=precision)
    fields = {**header_of(encode(context)), **sizes}
    header = msgpack.packb(fields)
    total = _total(header, context)
    assert total > 10**12
    with memory_limit(64_000_000):
        assert refusal(sealed(header, TENSORS, total=total), context.key).reason == "truncated"
        assert refusal(sealed(header, TENSORS, total=total + 1), context.key).reason == "header"


def _total(header, context):
    """What the tensors that a header speaks of add up to, as the refusal of a wrong sum says it."""
    text = str(refusal(sealed(header, TENSORS, total=0), context.key))
    return int(text.split("add up to ")[1].split()[0])


def test_the_sum_of_the_sizes():
    offset = aligned(24 + len(opened(DATA).header) + 16)
    for nbytes in (2 * 3 * 7 * 4 * 4, 2 * 3 * 7 * 4 * 4, 2 * 3 * 4, 12 * 4):
        offset = aligned(offset) + nbytes
    assert decode_head(DATA, KEY).total == offset + 16 == len(DATA)
    assert ALIGNMENT == 64


@pytest.mark.parametrize("precision", PRECISIONS)
def test_another_precision_of_the_same_context_is_foreign(precision):
    """Also under a header that says so, with the sizes that go with it."""
    others = [other for other in PRECISIONS if other != precision]
    for other in others:
        assert refusal(encode(make_context(precision=precision)), make_context(precision=other).key).reason == "foreign"


@pytest.mark.parametrize("name", ["tenant", "image_digest", "retention", "selection", "window", "describe_prompt"])
def test_an_identity_that_was_changed_under_valid_checksums_is_foreign(name):
    other = {
        "tenant": "globex",
        "image_digest": "0" * 64,
        "retention": math.nextafter(0.25, 1),
        "selection": "attention ",
        "window": (4, 21),
        "describe_prompt": "",
    }[name]
    value = sealed(with_identity(**{name: other}), TENSORS)
    assert refusal(value).reason == "foreign"
    changed = ContextIdentity(**{**make_context().identity.as_dict(), name: other})
    assert decode(value, changed.key()).identity == changed


@pytest.mark.parametrize("index", [-1, 12, 2**31 - 1, -(2**31)])
def test_indices_that_point_outside_the_image_are_refused(index):
    error = refusal(_with_first_index(index))
    assert error.reason == "header"
    assert "must lie in [0, 12)" in str(error)


def test_two_billion_rows_of_nothing_are_refused():
    specs = decode_head(DATA, KEY).tensors
    start, end = (specs[name].start - specs["keys.codes"].start for name in ("kept_indices", "scores"))
    error = refusal(sealed(with_fields(kept=[2**31 - 1, 0]), TENSORS[:start] + TENSORS[end:]))
    assert "kept_indices must have 1 row or 2" in str(error)


def test_indices_that_do_not_ascend_are_refused():
    assert "strictly ascending" in str(refusal(_with_first_index(5)))


def _with_first_index(index):
    specs = decode_head(DATA, KEY).tensors
    start = specs["kept_indices"].start - specs["keys.codes"].start
    tensors = TENSORS[:start] + struct.pack("<i", index) + TENSORS[start + 4 :]
    return sealed(opened(DATA).header, tensors)
