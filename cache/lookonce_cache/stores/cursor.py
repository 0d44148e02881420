"""Mark the end of a page, so that the next one goes on there despite changes."""

import math
import re
from typing import NamedTuple

_TEXT = re.compile(r"([0-9.e+-]{1,32}):([0-9a-f]{64})")


class Cursor(NamedTuple):
    """A context's position in a list; the newer of two is the greater."""

    time: float  # of the put, unix time in seconds
    id: str

    def __str__(self) -> str:
        return f"{self.time!r}:{self.id}"


def parse_cursor(text: str | None) -> Cursor | None:
    """Parse the text of a cursor; None for any other text."""
    match = _TEXT.fullmatch(text or "")
    try:
        time = float(match[1]) if match else math.nan
    except ValueError:
        return None
    return Cursor(time, match[2]) if match and math.isfinite(time) else None
