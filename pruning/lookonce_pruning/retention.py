"""Turn a retention into a number of image tokens."""

from __future__ import annotations

import math
from fractions import Fraction


def kept_count(retention: float, n: int) -> int:
    """Return max(1, ceil(retention * n)), the retention taken as a decimal.

    In binary floating point 0.07 * 100 is a little more than 7, and its ceiling 8; here it is 7.
    Raises ValueError unless 0 < retention <= 1 and n >= 1.
    """
    if not 0 < retention <= 1:
        raise ValueError(f"retention {retention!r}: expected 0 < retention <= 1")
    if n < 1:
        raise ValueError(f"n {n!r}: expected at least one image token")
    return max(1, math.ceil(Fraction(repr(float(retention))) * n))
