"""Tell a JPEG that lacks its end marker alone from one that is truncated."""

import re
from typing import NamedTuple

_END = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_RESTART_INTERVAL = 0xDD
_SEQUENTIAL = (0xC0, 0xC1)  # starts of frames whose pixels one scan has whole
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # starts of all kinds of frames
# A marker within a scan, beside those that restart it.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_TAIL = 4096  # bytes: more than all blocks of a unit take, of which not all are shown
# A scan that is whole does not look at what follows; one that is truncated takes it for pixels.
TAILS = (b"", *(byte * _TAIL for byte in (b"\x55", b"\xaa", b"\x33", b"\xcc", b"\x0f", b"\xf0", b"\xff\x00")))


class _Header(NamedTuple):
    """What comes before a JPEG's first scan."""

    end: int  # where the scan's data begin
    is_one_piece: bool  # one scan has all pixels, without restart markers


def endings(data: bytes) -> list[bytes]:
    """Return the same JPEG with its end marker, behind one tail each; none unless it lacks the marker alone.

    It lacks the marker alone if all of them decode to the same samples. Only a sequential JPEG of one scan without
    restart markers can be told: others may lack whole scans, or all that follows a restart marker.
    """
    header = _read_header(data)
    if header is None or not header.is_one_piece or _MARKER.search(data, header.end):
        return []
    whole = data.removesuffix(b"\xff")  # half of the marker
    return [whole + tail + _END for tail in TAILS]


def _read_header(data: bytes) -> _Header | None:
    """Read the segments before the first scan; None if they are not whole."""
    at, components, is_sequential, restarts = 2, 0, False, False
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if kind == 0xFF:  # fills
            at += 1
            continue
        body = data[at + 4 : at + 2 + length]
        if length < 3 or len(body) < length - 2:
            return None
        if kind == _START_OF_SCAN:
            return _Header(at + 2 + length, is_sequential and not restarts and body[0] == components)
        if kind == _RESTART_INTERVAL:
            restarts = any(body)
        if kind in _FRAMES:
            is_sequential, components = kind in _SEQUENTIAL, body[5] if len(body) > 5 else 0
        at += 2 + length
    return None
