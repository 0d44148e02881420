from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookonce_pruning import middle_layers, parse_window


@pytest.mark.parametrize(
    ("num_layers", "window"), [(80, range(20, 40)), (32, range(8, 16)), (8, range(2, 4)), (3, range(1)), (1, range(1))]
)
def test_middle_layers(num_layers, window):
    assert middle_layers(num_layers) == window == parse_window("middle", num_layers)


@settings(deadline=None)
@given(st.integers(1, 200))
def test_middle_is_a_part_of_all(num_layers):
    middle = middle_layers(num_layers)
    assert len(middle) >= 1
    assert set(middle) <= set(parse_window("all", num_layers)) == set(range(num_layers))


def test_numbers():
    assert parse_window("4-8", 8) == range(4, 8)


@pytest.mark.parametrize("text", ["", "early", "4", "4-", "-4-8", "4-4", "8-4", "4-9", "4 - 8", "٤-٨"])
def test_bad_window_is_named(text):
    with pytest.raises(ValueError, match="window") as caught:
        parse_window(text, 8)
    assert repr(text) in str(caught.value)
