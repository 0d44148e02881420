"""Storage precisions: what comes back, in how many bytes, whatever goes in."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lookonce_cache import InvalidContextError
from lookonce_cache.format.quantization import NATIVE_DTYPES, PRECISIONS, QuantizedTensor, parts_of, quantize

ROLES = ("keys", "values")
LOSSY = PRECISIONS[1:]
LARGEST_ERRORS = {"native": 0.0, "fp8": 0.03, "int8": 0.009, "int4": 0.12}
"""Root of the squared error over the squares, of normal numbers."""

every = pytest.mark.parametrize(("role", "precision"), [(r, p) for r in ROLES for p in PRECISIONS])
every_lossy = pytest.mark.parametrize(("role", "precision"), [(r, p) for r in ROLES for p in LOSSY])
shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 40))


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_outliers(*shape, times=20.0):
    """Four channels of every head lie far from zero in all tokens, as those of published models' keys do."""
    offset = torch.zeros(shape[-1])
    offset[:4] = times
    return normal(*shape) + offset


def there_and_back(tensor, role, precision):
    return quantize(tensor, role, precision).dequantize()


def error(tensor, role, precision):
    wide = tensor.double()
    return float((there_and_back(tensor, role, precision).double() - wide).norm() / wide.norm())


def test_the_names():
    assert PRECISIONS == ("native", "fp8", "int8", "int4")


@every
def test_the_error_is_small(role, precision):
    for dtype, head_dim in itertools.product(NATIVE_DTYPES, (128, 112, 96, 80, 64, 33)):
        tensor = normal(2, 3, 42, head_dim, dtype=dtype)
        back = there_and_back(tensor, role, precision)
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert error(tensor, role, precision) <= LARGEST_ERRORS[precision], (dtype, head_dim)


@pytest.mark.parametrize(("precision", "largest"), [("fp8", 0.5), ("int8", 0.02), ("int4", 0.3)])
def test_outlying_channels_do_not_drown_the_others_in_keys(precision, largest):
    keys = with_outliers(2, 3, 42, 128)
    difference = (there_and_back(keys, "keys", precision) - keys)[..., 4:]
    assert difference.square().mean().sqrt() <= largest


@pytest.mark.parametrize(("precision", "largest"), [("int8", 0.02), ("int4", 0.25)])
def test_a_first_token_unlike_the_others_keeps_its_own_size(precision, largest):
    keys = with_outliers(1, 2, 42, 64)
    keys[:, :, 0] = normal(1, 2, 64, seed=1) * 0.5
    first = (there_and_back(keys, "keys", precision) - keys)[:, :, 0]
    assert first.square().mean().sqrt() <= largest


@pytest.mark.parametrize(("precision", "largest"), [("int8", 0.015), ("int4", 0.2)])
def test_one_outlier_in_a_value_is_spread(precision, largest):
    values = normal(1, 2, 42, 64)
    values[..., 7] *= 8
    assert error(values, "values", precision) <= largest


def test_native_is_the_tensor_itself():
    tensor = normal(2, 2, 5, 8)
    kept = quantize(tensor, "keys", "native")
    assert kept.dequantize() is tensor
    assert kept.parts[0].data_ptr() == tensor.data_ptr()
    assert kept.nbytes == tensor.nbytes


@every
@settings(deadline=None)
@given(shape=shapes, dtype=st.sampled_from(NATIVE_DTYPES))
def test_what_is_stored_is_what_was_foretold(role, precision, shape, dtype):
    kept = quantize(normal(*shape, dtype=dtype), role, precision)
    expected = parts_of(role, precision, dtype, shape)
    assert [(p.dtype, p.shape) for p in expected] == [(t.dtype, tuple(t.shape)) for t in kept.parts]
    assert kept.nbytes == sum(math.prod(p.shape) * p.dtype.itemsize for p in expected)
    assert kept.dequantize().shape == shape
    assert all(part.is_contiguous() for part in kept.parts)


@every
def test_nothing_is_allocated_to_foretell(role, precision):
    huge = (2**31 - 1,) * 4
    assert parts_of(role, precision, torch.float32, huge)[0].shape[:3] == huge[:3]


@pytest.mark.parametrize(("precision", "bits", "largest"), [("fp8", 8, 1.04), ("int8", 8, 1.06), ("int4", 4, 1.07)])
@pytest.mark.parametrize("tokens", [42, 67, 200])
def test_scales_cost_little(precision, bits, largest, tokens):
    shape = (32, 8, tokens, 128)
    codes = 2 * math.prod(shape) * bits / 8
    parts = [part for role in ROLES for part in parts_of(role, precision, torch.bfloat16, shape)]
    assert sum(math.prod(part.shape) * part.dtype.itemsize for part in parts) <= largest * codes


@every
def test_the_same_tensor_gives_the_same_bytes(role, precision):
    tensor = normal(2, 3, 20, 64)
    first, second = quantize(tensor, role, precision), quantize(tensor.clone(), role, precision)
    for one, other in zip(first.parts, second.parts, strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@every
def test_strides_do_not_matter(role, precision):
    tensor = normal(2, 3, 20, 64)
    strided = tensor.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    assert torch.equal(there_and_back(strided, role, precision), there_and_back(tensor, role, precision))


@every_lossy
def test_zero_stays_zero(role, precision):
    for dtype in NATIVE_DTYPES:
        tensor = normal(2, 2, 6, 32, dtype=dtype)
        tensor[0, 0] = 0
        tensor[1, :, 3] = 0
        back = there_and_back(tensor, role, precision)
        assert not back[0, 0].any(), dtype
        if role == "values":
            assert not back[1, :, 3].any(), dtype
        assert not there_and_back(torch.zeros_like(tensor), role, precision).any(), dtype


@every_lossy
def test_the_ends_of_a_dtype(role, precision):
    for dtype in NATIVE_DTYPES:
        limits = torch.finfo(dtype)
        for size in (limits.max, limits.tiny, limits.smallest_normal / 4):
            tensor = (normal(2, 2, 20, 64).clamp(-1, 1).double() * size).to(dtype)
            tensor[0, 0, 0, 0] = size
            back = there_and_back(tensor, role, precision)
            assert back.isfinite().all(), (dtype, size)
            assert back.abs().max() <= tensor.abs().max(), (dtype, size)
            assert error(tensor, role, precision) <= 0.2, (dtype, size)


@every_lossy
def test_sizes_far_apart(role, precision):
    for dtype in NATIVE_DTYPES:
        sizes = torch.logspace(math.log10(torch.finfo(dtype).tiny), math.log10(torch.finfo(dtype).max) - 0.1, 40)
        tensor = (normal(1, 2, 40, 32).clamp(-1, 1) * sizes[:, None]).to(dtype)
        back = there_and_back(tensor, role, precision)
        assert back.isfinite().all(), dtype
        assert back.abs().max() <= tensor.abs().max(), dtype


@every_lossy
@settings(deadline=None)
@given(value=st.floats(-1e30, 1e30), shape=shapes)
def test_constants_come_back(role, precision, value, shape):
    tensor = torch.full(shape, value)
    torch.testing.assert_close(there_and_back(tensor, role, precision), tensor, rtol=0.09, atol=0)


@every_lossy
def test_what_is_not_finite_is_refused(role, precision):
    for bad in (math.nan, math.inf, -math.inf):
        tensor = normal(1, 1, 4, 8)
        tensor[0, 0, 2, 3] = bad
        with pytest.raises(InvalidContextError, match=f"{role} have numbers that are not finite, which {precision}"):
            quantize(tensor, role, precision)


@every
def test_it_is_made_on_the_device_that_was_asked_for(role, precision):
    kept = quantize(normal(1, 2, 5, 32, dtype=torch.bfloat16), role, precision)
    there = kept.dequantize("meta")
    assert (there.device.type, there.dtype, there.shape) == ("meta", torch.bfloat16, kept.shape)
    assert kept.dequantize(torch.device("cpu")).device.type == "cpu"


@every_lossy
def test_no_gradient_comes_along(role, precision):
    kept = quantize(normal(1, 2, 5, 32).requires_grad_(), role, precision)
    assert not kept.dequantize().requires_grad


def test_an_unknown_precision_is_refused_with_the_known_ones():
    message = "precision: 'int2'; accepted: native, fp8, int8, int4"
    with pytest.raises(InvalidContextError, match=message):
        quantize(normal(1, 1, 1, 4), "keys", "int2")
    with pytest.raises(InvalidContextError, match=message):
        parts_of("keys", "int2", torch.float32, (1, 1, 1, 4))
    with pytest.raises(InvalidContextError, match=message):
        QuantizedTensor("keys", "int2", torch.float32, (1, 1, 1, 4), ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": torch.float64}, "values must be torch.float32 or .*, not torch.float64"),
        ({"shape": (1, 2, 8)}, "values must have 4 dimensions and not be empty, their shape is"),
        ({"shape": (1, 2, 0, 8)}, "values must have 4 dimensions and not be empty, their shape is"),
        (
            {"shape": (1, 2, 6, 8)},
            r"codes of values in int8 must be torch.int8 \(1, 2, 6, 8\), not torch.int8 \(1, 2, 5",
        ),
        ({"role": "keys"}, "keys in int8 have 5 parts, not 3"),
        ({"precision": "int4"}, "codes of values in int4 must be"),
        ({"parts": ()}, "values in int8 have 3 parts, not 0"),
        ({"parts": ([], [], [])}, "codes of values in int8 must be a tensor, not list"),
        ({"parts": "meta"}, "codes of values in int8 must be on the CPU, not on meta"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    kept = quantize(normal(1, 2, 5, 8), "values", "int8")
    fields = {name: getattr(kept, name) for name in ("role", "precision", "dtype", "shape", "parts")} | changes
    if fields["parts"] == "meta":
        fields["parts"] = tuple(part.to("meta") for part in kept.parts)
    with pytest.raises(InvalidContextError, match=message):
        QuantizedTensor(**fields)


@every
def test_only_keys_and_values_can_be_stored(role, precision):
    for bad in (normal(2, 5, 8), normal(1, 2, 0, 8), normal(1, 2, 5, 8).double()):
        with pytest.raises(InvalidContextError, match=f"{role} must"):
            quantize(bad, role, precision)
