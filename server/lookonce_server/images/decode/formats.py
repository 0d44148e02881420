"""The image formats that are read, known by a file's first bytes alone."""

import importlib.util

# Pillow's names. HEIF (HEIC) is read where the extra `heif` is installed.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF") + (
    ("HEIF",) if importlib.util.find_spec("pillow_heif") else ()
)

_STARTS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
_BOX_HEADER = 8  # bytes: the length of an ISO box, and its type
_MAX_BRANDS = 32


def format_of(data: bytes) -> str | None:
    """Return the format that a file's first bytes name; None if it is none of FORMATS."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        name = _format_of_brands(data)
    else:
        name = next((name for start, name in _STARTS.items() if data.startswith(start)), None)
    return name if name in FORMATS else None


def container_of(data: bytes) -> str | None:
    """Return the video container that a file's first bytes name, None for none."""
    if data.startswith(b"\x1aE\xdf\xa3"):
        return "WEBM"
    return "MP4" if data[4:8] == b"ftyp" and _format_of_brands(data) is None else None


def _format_of_brands(data: bytes) -> str | None:
    """Return the format of an ISO media file, by its major or other brands."""
    end = min(int.from_bytes(data[:4]), _BOX_HEADER + 4 * _MAX_BRANDS)
    brands = {data[at : at + 4] for at in (_BOX_HEADER, *range(_BOX_HEADER + 8, end - 3, 4))}
    major = {data[_BOX_HEADER : _BOX_HEADER + 4]}
    for names in (major, brands):
        if names & _AVIF_BRANDS:
            return "AVIF"
        if names & _HEIF_BRANDS:
            return "HEIF"
    return None
