import hashlib
import math
from contextlib import suppress
from dataclasses import fields, replace
from itertools import combinations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lookonce_cache import (
    FORMAT_VERSION,
    PRECISIONS,
    ContextIdentity,
    ContextKey,
    InvalidContextError,
    check_tenant,
    digest,
)
from lookonce_cache.identity import TEXT_LIMITS, brief

from ...support.cache_samples import make_identity

IDENTITY = ContextIdentity(
    tenant="acme",
    model_fingerprint="model",
    image_digest=digest(b"an image"),
    describe_prompt="Describe the image.",
    template_digest=digest(b"a template"),
    retention=0.05,
    selection="attention",
    window=(4, 20),
    precision="native",
)
NAMES = [field.name for field in fields(ContextIdentity)]
TEXTS = sorted(TEXT_LIMITS)
DIGESTS = ["image_digest", "template_digest"]

text = st.text(max_size=20)
digests = st.binary(max_size=8).map(digest)
VALID = {
    "tenant": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
    "model_fingerprint": text,
    "image_digest": digests,
    "describe_prompt": text,
    "template_digest": digests,
    "retention": st.floats(0, 1),
    "selection": text,
    "window": st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)).filter(lambda ends: ends[0] < ends[1]),
    "precision": st.sampled_from(PRECISIONS),
    "format_version": st.integers(1, 2**32 - 1),
}
identities = st.builds(ContextIdentity, **VALID)


def test_a_key_is_the_same_in_every_release_of_this_format_version():
    assert IDENTITY.key() == ContextKey("acme", "f41bad3ed8b5111de3c5f6e36d9cde47c9f5cc12ed343a8f204f3b2601ad72f0")


def test_digest_is_the_whole_blake2b_256():
    assert digest(b"abc") == "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"
    assert digest(b"abc") == hashlib.blake2b(b"abc", digest_size=32).hexdigest()


def test_every_field_is_tried():
    assert list(VALID) == NAMES


@pytest.mark.parametrize("name", NAMES)
@given(identity=identities, data=st.data())
def test_any_one_change_changes_the_key(name, identity, data):
    other = data.draw(VALID[name])
    assume(other != getattr(identity, name))
    changed = replace(identity, **{name: other})
    assert changed.key().id != identity.key().id
    assert replace(changed, **{name: getattr(identity, name)}).key() == identity.key()


@given(identities, identities)
def test_keys_are_equal_only_if_identities_are(one, other):
    assert (one.key() == other.key()) == (one == other)


@given(identities)
def test_a_key_is_that_of_its_tenant_and_can_be_made_anew(identity):
    assert identity.key().tenant == identity.tenant
    assert ContextIdentity(**identity.as_dict()).key() == identity.key()


@pytest.mark.parametrize("names", list(combinations(TEXTS, 2)))
@given(whole=text, cut=st.integers(0, 20), other_cut=st.integers(0, 20))
def test_text_cannot_move_between_fields(names, whole, cut, other_cut):
    cut, other_cut = min(cut, len(whole)), min(other_cut, len(whole))
    first, second = names
    one = replace(IDENTITY, **{first: whole[:cut], second: whole[cut:]})
    other = replace(IDENTITY, **{first: whole[:other_cut], second: whole[other_cut:]})
    assert (one.key() == other.key()) == (cut == other_cut)


@pytest.mark.parametrize("names", [*combinations(TEXTS, 2), DIGESTS])
def test_fields_cannot_change_places(names):
    first, second = names
    swapped = {first: getattr(IDENTITY, second), second: getattr(IDENTITY, first)}
    assert replace(IDENTITY, **swapped).key() != IDENTITY.key()


def test_neighbouring_numbers_have_their_own_keys():
    ids = {replace(IDENTITY, retention=share).key() for share in (0.05, math.nextafter(0.05, 1), 0.0, 5e-324, 1.0)}
    assert len(ids) == 5


def test_zero_has_one_key():
    one, other = make_identity(retention=0.0), make_identity(retention=-0.0)
    assert one == other
    assert one.key() == other.key()


def test_a_tenants_key_is_no_other_tenants_even_with_its_id():
    key = IDENTITY.key()
    assert ContextKey("globex", key.id) != key
    assert replace(IDENTITY, tenant="globex").key().id != key.id


BAD_IDENTITIES = [
    ({"tenant": ""}, "tenant: ''; accepted: 1 to 64"),
    ({"tenant": None}, "tenant: None"),
    ({"tenant": "-a"}, "tenant: '-a'"),
    ({"tenant": "a" * 65}, "tenant: 'aaa"),
    ({"tenant": "a:b"}, "tenant: 'a:b'"),
    ({"tenant": "a{b}"}, "tenant: "),
    ({"tenant": "acme\n"}, "tenant: "),
    ({"tenant": "ácme"}, "tenant: "),
    ({"tenant": "٣"}, "tenant: "),
    ({"model_fingerprint": None}, "model_fingerprint must be a str, not NoneType"),
    ({"model_fingerprint": "x" * 513}, "model_fingerprint has 513 bytes of UTF-8, the limit is 512"),
    ({"image_digest": "0" * 63}, "image_digest must be 64 lowercase hex digits, not '000"),
    ({"image_digest": "0" * 64 + "\n"}, "image_digest must be 64"),
    ({"image_digest": b"0" * 64}, "image_digest must be 64"),
    ({"template_digest": "A" * 64}, "template_digest must be 64"),
    ({"describe_prompt": "\ud800"}, "describe_prompt has lone surrogates"),
    ({"describe_prompt": "é" * 12_289}, "describe_prompt has 24578 bytes of UTF-8, the limit is 24576"),
    ({"describe_prompt": {}}, "describe_prompt must be a str, not dict"),
    ({"selection": ["attention"]}, "selection must be a str, not list"),
    ({"retention": 1}, "retention must be a float between 0 and 1, not 1"),
    ({"retention": 1.01}, "retention must be a float between 0 and 1, not 1.01"),
    ({"retention": float("nan")}, "retention must be a float"),
    ({"retention": {}}, "retention must be a float between 0 and 1, not {}"),
    ({"window": [4, 20]}, "window must be two ints"),
    ({"window": (4, 4)}, "window must be two ints"),
    ({"window": (-1, 4)}, "window must be two ints"),
    ({"window": (0, 2**31)}, "window must be two ints"),
    ({"window": (False, True)}, "window must be two ints"),
    ({"window": (1, 2, 3)}, "window must be two ints"),
    ({"window": None}, "window must be two ints"),
    ({"precision": "float3"}, "precision must be one of native, fp8, int8, int4, not 'float3'"),
    ({"precision": ["native"]}, "precision must be one of"),
    ({"precision": {}}, "int4, not {}"),
    ({"format_version": 0}, "format_version must be a positive int"),
    ({"format_version": True}, "format_version must be a positive int"),
    ({"format_version": 2**32}, "format_version must be a positive int"),
]


def test_bad_identities_are_refused(subtests):
    for changes, message in BAD_IDENTITIES:
        with subtests.test(repr(changes)[:200]), pytest.raises(InvalidContextError, match=message):
            replace(IDENTITY, **changes)


@given(
    st.sampled_from(NAMES),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    ),
)
def test_a_field_of_any_type_is_refused_or_has_a_key(name, value):
    with suppress(InvalidContextError):
        identity = replace(IDENTITY, **{name: value})
        assert isinstance(identity.key(), ContextKey)


@pytest.mark.parametrize("tenant", ["a", "A.b_c-9", "9" * 64])
def test_tenants(tenant):
    assert check_tenant(tenant) == tenant


@pytest.mark.parametrize(
    ("tenant", "key_id"), [("", "0" * 64), ("a", "0" * 63), ("a", "G" * 64), ("a", None), (None, "")]
)
def test_bad_keys_are_refused(tenant, key_id):
    with pytest.raises(InvalidContextError, match=r"tenant: |id must be"):
        ContextKey(tenant, key_id)


def test_the_identity_starts_with_this_releases_format():
    assert make_identity().format_version == FORMAT_VERSION == 1


def test_what_an_error_shows_is_short():
    nested: object = "x" * 10_000
    for _ in range(5000):
        nested = [nested, nested]
    assert len(brief(nested)) < 500
    assert len(brief("x" * 10_000)) < 200
