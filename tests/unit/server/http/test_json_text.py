"""JSON within bounds: what is over one is told before anything is made of it, and what is in texts counts nowhere."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.bodies.json_text import MAX_DEPTH, MAX_DIGITS, MAX_NAMES, MAX_VALUES, parse_json

TEXTS = st.text(st.sampled_from('",[]{}\\:a\n😀'), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def refusal(body: bytes) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse_json(body)
    assert len(str(caught.value)) < 500
    return caught.value


@settings(deadline=None, max_examples=200)
@given(value=JSON, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_json_is_what_it_stands_for(value, ascii_only, indent):
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()) == value


@pytest.mark.parametrize("text", ['",' * 400_000, "[{" * 200_000, "\\" * 300_001 + '"', "]" * 500_000])
def test_what_is_in_a_text_counts_nowhere(text):
    value = {"a": text, "b": [[text]], text[:50]: 1}
    assert parse_json(json.dumps(value).encode()) == value


def test_as_much_as_may_be_is_read():
    assert len(parse_json(b"[" + b"0," * (MAX_VALUES - 2) + b"0]")) == MAX_VALUES - 1
    assert len(parse_json(json.dumps(dict.fromkeys(map(str, range(MAX_NAMES)))).encode())) == MAX_NAMES
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert parse_json(b"9" * MAX_DIGITS) == int("9" * MAX_DIGITS)
    assert parse_json(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


VAST = 20_000_000
TOO_MUCH = {
    "values": (b"[" + b"0," * MAX_VALUES + b"0]", f"at most {MAX_VALUES}"),
    "vast values": (b"[" + b"0," * (VAST // 2), f"at most {MAX_VALUES}"),
    "texts": (b"[" + b'"",' * (VAST // 3), f"at most {MAX_VALUES}"),
    "objects": (b"[" + b"{}," * (VAST // 3), f"at most {MAX_VALUES}"),
    "closings": (b"[" * 200 + b"]" * VAST, f"at most {MAX_VALUES}"),
    "names": (b"{%s}" % b",".join(b'"%d":0' % i for i in range(MAX_NAMES + 1)), f"at most {MAX_NAMES}"),
    "depth": (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), f"nested {MAX_DEPTH + 1} deep"),
    "depth of objects": (b'{"a":' * 5000 + b"0" + b"}" * 5000, "nested 5000 deep"),
    "depth without an end": (b"[" * 1_000_000, f"at most {MAX_VALUES}"),
}


@pytest.mark.parametrize(("body", "said"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_more_is_refused_and_nothing_made_of_it(body, said):
    tracemalloc.start()
    try:
        assert said in str(refusal(body))
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body) + 40_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (b"", None, "is empty"),
        (b" \n", None, "is empty"),
        (b"{", None, "line 1 column 2"),
        (b'{"a": 1} x', None, "Extra data"),
        (b'{"a": "\xff"}', None, "byte 0xff at position 7"),
        (b'{"a": "\xed\xa0\x80"}', None, "byte 0xed at position 7"),
        ('{"a": 1}'.encode("utf-16"), None, "byte 0xff at position 0"),
        ('{"a": 1}'.encode("utf-32-be"), None, "not valid JSON"),
        (b'{"a": {"b": 1, "b": 1}}', None, "the name 'b' more than once"),
        (b'{"a": NaN}', "a", "must be finite"),
        (b'{"a": [0, -Infinity]}', "a[1]", "given: -inf"),
        (b'{"a": {"b": 1e999}}', "a.b", "must be finite"),
        (b'{"a": %s}' % (b"9" * (MAX_DIGITS + 1)), "a", f"at most {MAX_DIGITS} digits"),
        (b'{"a": -0.%s}' % (b"9" * 5_000_000), "a", f"at most {MAX_DIGITS} digits"),
        (b"9" * 5000, None, "The body: a number"),
        (b'{"a": [{"b": "\\ud800"}]}', "a[0].b", "a lone surrogate"),
        (b'{"a": {"\\uDFFF": 1}}', "a", "a lone surrogate"),
        (b'{"\\ud800": 1}', None, "The body: the text"),
        (b'{"%s": [NaN]}' % (b"x" * 1_000_000), "x" * 200, "must be finite"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_cannot_be_used_is_refused_by_its_place(body, param, said):
    error = refusal(body)
    assert error.param == param
    assert said in str(error)
