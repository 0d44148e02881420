"""Where a page of contexts ends, so that the next one goes on there, whatever is used, put or deleted meanwhile."""

import math
import re
from typing import NamedTuple

_TEXT = re.compile(r"([0-9.e+-]{1,32}):([0-9a-f]{64})")


class Cursor(NamedTuple):
    """A context's place in a list with the newest first; the later of two is the greater."""

    time: float  # by which the store orders them, unix time in seconds
    id: str

    def __str__(self) -> str:
        return f"{self.time!r}:{self.id}"


def parse_cursor(text: str | None) -> Cursor | None:
    """The cursor that `str` made this text of, None for any other."""
    match = _TEXT.fullmatch(text or "")
    try:
        time = float(match[1]) if match else math.nan
    except ValueError:
        return None
    return Cursor(time, match[2]) if match and math.isfinite(time) else None
