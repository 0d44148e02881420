import hashlib
import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookonce_cache import ContextIdentity, InvalidContextError, digest

IDENTITY = ContextIdentity(
    tenant="acme",
    model_fingerprint="model",
    image_digest=digest(b"an image"),
    describe_prompt="Describe the image.",
    template_digest=digest(b"a template"),
    retention=0.05,
    selection="attention",
    window=(4, 20),
    precision="bfloat16",
)

text = st.text(max_size=20)
identities = st.builds(
    ContextIdentity,
    tenant=text,
    model_fingerprint=text,
    image_digest=text,
    describe_prompt=text,
    template_digest=text,
    retention=st.floats(0, 1),
    selection=text,
    window=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    precision=text,
    format_version=st.integers(1, 1000),
)


def test_a_key_is_the_same_in_every_release_of_this_format_version():
    assert IDENTITY.key() == "f6f52bd0174fac7a383953f459659ffb411cdd63978b127606f1413a458ff1e1"


def test_digest_is_the_whole_blake2b_256():
    assert digest(b"abc") == "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"
    assert digest(b"abc") == hashlib.blake2b(b"abc", digest_size=32).hexdigest()


@pytest.mark.parametrize("name", [field.name for field in fields(ContextIdentity)])
def test_every_input_changes_the_key(name):
    changed = {"retention": math.nextafter(0.05, 1), "window": (4, 21), "format_version": 2}
    value = changed.get(name, f"{getattr(IDENTITY, name)} ")
    assert replace(IDENTITY, **{name: value}).key() != IDENTITY.key()


@given(identities, identities)
def test_keys_are_equal_only_if_identities_are(one, other):
    assert (one.key() == other.key()) == (one == other)


@given(identities, st.data())
def test_any_one_change_changes_the_key(identity, data):
    other = data.draw(identities)
    name = data.draw(st.sampled_from([field.name for field in fields(ContextIdentity)]))
    changed = replace(identity, **{name: getattr(other, name)})
    assert (changed.key() == identity.key()) == (changed == identity)


TEXT_FIELDS = ["tenant", "model_fingerprint", "image_digest", "describe_prompt", "template_digest"]


@given(text, st.integers(0, 20), st.integers(0, 20), st.sampled_from(list(pairwise(TEXT_FIELDS))))
def test_text_cannot_move_between_fields(whole, cut, other_cut, names):
    cut, other_cut = min(cut, len(whole)), min(other_cut, len(whole))
    first, second = names
    one = replace(IDENTITY, **{first: whole[:cut], second: whole[cut:]})
    other = replace(IDENTITY, **{first: whole[:other_cut], second: whole[other_cut:]})
    assert (one.key() == other.key()) == (cut == other_cut)


def test_text_that_is_not_unicode_is_refused():
    with pytest.raises(InvalidContextError, match="cannot be encoded as UTF-8"):
        replace(IDENTITY, describe_prompt="\ud800").key()
