from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookonce_pruning import kept_count


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 10**6), st.data())
def test_equals_whole_number_arithmetic(places, n, data):
    scale = 10**places
    parts = data.draw(st.integers(1, scale))
    assert kept_count(parts / scale, n) == max(1, -(-parts * n // scale))


@pytest.mark.parametrize(
    ("retention", "n", "count"), [(0.07, 100, 7), (0.1, 10, 1), (0.05, 196, 10), (1e-9, 5, 1), (1, 9, 9)]
)
def test_examples(retention, n, count):
    assert kept_count(retention, n) == count


@pytest.mark.parametrize("retention", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_retention_out_of_range(retention):
    with pytest.raises(ValueError, match="retention"):
        kept_count(retention, 10)


def test_no_tokens():
    with pytest.raises(ValueError, match="at least one"):
        kept_count(0.5, 0)
