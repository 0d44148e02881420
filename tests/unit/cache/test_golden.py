"""Format version 1 stays what it is: the golden files are read, and written, by every release that knows it."""

import hashlib

import numpy as np
import pytest

from lookonce_cache import PRECISIONS, decode, encode
from lookonce_cache.format.header import DTYPES

from ...support.cache_samples import assert_same, make_context
from .golden import CASES, FOLDER, golden_bytes, golden_context
from .second_reader import read

IDS = {
    "native-float32": "2f524f80dc0c0fc0",
    "native-bfloat16": "647497ace962c2da",
    "native-float16": "1d2abcb768d81365",
    "fp8": "1a30b54e798f04f4",
    "int8": "d2a9b8764d532e64",
    "int4": "76b6ff5382036175",
    "int4-odd-head": "5d09fdc0b2f0072a",
    "kept-per-layer": "c0c88cdaae15f1ba",
    "kept-none": "892e1ea1088016d6",
    "video": "53788f6c0dc9ea26",
    "tiles": "4b8fb2753acb213e",
    "states": "26f9063f62d3d725",
    "long-description": "c9c70043906055a2",
}


def test_every_file_is_a_case_and_small():
    files = {path.stem: path for path in FOLDER.iterdir()}
    assert files.keys() == CASES.keys() == IDS.keys()
    assert all(path.suffix == ".context" and path.stat().st_size < 4096 for path in files.values())


def test_every_precision_and_type_has_a_case():
    assert {case.precision for case in CASES.values()} == set(PRECISIONS)
    assert {case.dtype for case in CASES.values()} == set(DTYPES.values())


@pytest.mark.parametrize("name", CASES)
def test_no_file_was_changed(name):
    assert hashlib.blake2b(golden_bytes(name), digest_size=8).hexdigest() == IDS[name]


@pytest.mark.parametrize("name", CASES)
def test_a_golden_file_is_read(name):
    context = golden_context(name)
    assert_same(decode(golden_bytes(name), context.key), context)


@pytest.mark.parametrize("name", CASES)
def test_a_golden_file_is_written(name):
    assert encode(golden_context(name)) == golden_bytes(name)


@pytest.mark.parametrize("name", CASES)
def test_a_golden_file_says_the_same_to_a_reader_made_from_the_documentation(name):
    assert_agree(golden_bytes(name), golden_context(name), exactly=True)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_any_value_says_the_same_to_it(dtype, precision):
    context = make_context(precision=precision)
    keys, values = context.keys.dequantize().to(dtype), context.values.dequantize().to(dtype)
    context = make_context(keys=keys, values=values, precision=precision)
    assert_agree(encode(context), context, exactly=precision in ("native", "fp8"))


def assert_agree(data, context, *, exactly):
    """Fails unless both readers give the same.

    Args:
        data: a value.
        context: what it holds.
        exactly: down to the last bit; else but for the last bit of a power of two, which machines compute differently.
    """
    found = read(data)
    decoded = decode(data, context.key)
    assert found.id == context.id
    assert found.header["description"] == context.description
    assert np.array_equal(found.kept_indices, context.kept_indices.numpy())
    assert np.array_equal(found.scores, context.scores.numpy())
    assert list(found.states) == list(context.states)
    for name, state in context.states.items():
        assert np.array_equal(found.states[name].view(np.uint32), state.float().numpy().view(np.uint32)), name
    for role in ("keys", "values"):
        mine, dense = getattr(found, role), getattr(decoded, role).dequantize()
        assert dense.dtype == context.keys.dtype
        dense = dense.float().numpy()
        if exactly:
            assert np.array_equal(mine.view(np.uint32), dense.view(np.uint32)), role
        else:
            step = 2.0 ** -(23 if context.keys.dtype.itemsize == 4 else 7)
            assert np.allclose(mine, dense, rtol=2 * step, atol=2 * step * np.abs(dense).max()), role
