"""Tell a JPEG that lacks its end marker alone from one that is truncated."""

import re
from typing import NamedTuple

_END = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_SEQUENTIAL = (0xC0, 0xC1)  # starts of frames whose pixels one scan has whole
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # starts of all kinds of frames
# A marker within a scan, beside those that restart it.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_TAIL = 64  # bytes
# A scan that is whole does not look at what follows; one that is truncated takes it for pixels.
TAILS = (b"", b"\x55" * _TAIL, b"\xaa" * _TAIL, b"\xff\x00" * (_TAIL // 2))


class _Header(NamedTuple):
    """What comes before a JPEG's first scan."""

    end: int  # where the scan's data begin
    is_whole_in_one_scan: bool


def endings(data: bytes) -> list[bytes]:
    """Return the same JPEG with its end marker, behind one tail each; none unless it lacks the marker alone.

    It lacks the marker alone if all of them decode to the same pixels. Only a sequential JPEG of one scan can be told:
    others may lack whole scans.
    """
    header = _read_header(data)
    if header is None or not header.is_whole_in_one_scan or _MARKER.search(data, header.end):
        return []
    whole = data.removesuffix(b"\xff")  # half of the marker
    return [whole + tail + _END for tail in TAILS]


def _read_header(data: bytes) -> _Header | None:
    """Read the segments before the first scan; None if they are not whole."""
    at, components, is_sequential = 2, 0, False
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if kind == 0xFF:  # fills
            at += 1
            continue
        body = data[at + 4 : at + 2 + length]
        if length < 3 or len(body) < length - 2:
            return None
        if kind == _START_OF_SCAN:
            return _Header(at + 2 + length, is_sequential and body[0] == components)
        if kind in _FRAMES:
            is_sequential, components = kind in _SEQUENTIAL, body[5] if len(body) > 5 else 0
        at += 2 + length
    return None
