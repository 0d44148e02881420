"""Scoring windows, half-open ranges of recorded layers, and the rows that score."""

from __future__ import annotations

import re
from typing import Literal

ScoreQueries = Literal["generated", "query", "both"]


def middle_layers(num_layers: int) -> range:
    """Return the quarter of the layers from a quarter of the depth on.

    It is at least one layer.

    Kaduri et al. (arXiv 2411.17491) find that image content reaches the other tokens in about 25% of the layers: 20-40
    of 80 in InternVL2-76B, and within 4-20 of 32 in LLaVA-1.5-7B. From a quarter to a half of the depth is exactly the
    first, and the middle of the second (8-16).
    """
    start = num_layers // 4
    return range(start, max(start + 1, num_layers // 2))


def parse_window(text: str, num_layers: int) -> range:
    """Parse `"middle"`, `"all"` or `"first-end"` into layer indices.

    `"20-40"` is half open, layers 20 to 39, as Python counts: of 80 layers it is "middle", and "0-80" is "all".
    Raises ValueError for any other text, an empty window, or one that ends beyond the last layer.
    """
    if text == "middle":
        return middle_layers(num_layers)
    if text == "all":
        return range(num_layers)
    match = re.fullmatch(r"([0-9]+)-([0-9]+)", text)
    if match is None:
        raise ValueError(f"window {text!r}: expected 'middle', 'all' or 'first-end' such as '4-8'")
    window = range(int(match[1]), int(match[2]))
    if not window or window.stop > num_layers:
        raise ValueError(f"window {text!r}: expected 0 <= first < end <= {num_layers}, the model's number of layers")
    return window
