"""Image files of kinds that Pillow does not write, byte by byte."""

import io
import struct
import zlib
from functools import cache

from PIL import Image, ImageCms

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, depth: int, kind: int, *rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG.

    Args:
        width: in pixels; as many lines as rows.
        depth: bits of a sample.
        kind: PNG's colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
        rows: packed samples.
        extra: chunks before the pixels.
    """
    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def png_header(width: int, height: int) -> bytes:
    """A few bytes that claim to be a picture of that size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def samples(*values: int) -> bytes:
    """Of 16 bits."""
    return struct.pack(f">{len(values)}H", *values)


def gif(
    canvas: tuple[int, int], frame: tuple[int, int, int, int], pixels: bytes, *, transparent: int | None = None
) -> bytes:
    """A GIF of red (0) and blue (1).

    Args:
        canvas: width and height.
        frame: left, top, width, height.
        pixels: of the frame.
        transparent: the index that is.
    """
    control = b"!\xf9\x04" + bytes([1, 0, 0, transparent]) + b"\0" if transparent is not None else b""
    return (
        b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x80, 0, 0) + bytes([*RED, *BLUE])  #
        + control + b"," + struct.pack("<HHHHB", *frame, 0) + _lzw(pixels) + b";"
    )  # fmt: skip


def gif_frames(count: int) -> bytes:
    """A GIF of that many frames of one pixel, red first, the others blue."""
    one = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
    header = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes([*RED, *BLUE])
    return header + one + _lzw(b"\0") + (one + _lzw(b"\1")) * (count - 1) + b";"


def _lzw(pixels: bytes) -> bytes:
    """In GIF's blocks, not compressed: the table is cleared (4) before every second code of 3 bits."""
    codes = [code for i, pixel in enumerate(pixels) for code in ([4, pixel] if i % 2 == 0 else [pixel])] + [5]
    number = sum(code << 3 * i for i, code in enumerate(codes))
    packed = number.to_bytes((3 * len(codes) + 7) // 8, "little")
    blocks = [packed[i : i + 255] for i in range(0, len(packed), 255)]
    return b"\x02" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


@cache
def swapping_profile() -> bytes:
    """A colour profile whose red is sRGB's blue, and the other way round."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack(">I", profile[128:132])
    entries = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, blue = (slice(entries[name] + 4, entries[name] + 12) for name in (b"rXYZ", b"bXYZ"))
    profile[red], profile[blue] = profile[blue], profile[red]
    return bytes(profile)


def many_scans(size: tuple[int, int], scans: int) -> bytes:
    """A progressive JPEG whose every scan of a few bytes makes the decoder go over the whole picture again."""
    data = encoded(Image.new("L", size, 128), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")  # the last scan, which refines the finest bit: of nothing, here
    return data[:-2] + data[start:-2] * scans + b"\xff\xd9"


def run_length_bmp(width: int, height: int) -> bytes:
    """A run of one pixel for each pixel, which Pillow decodes in Python."""
    pixels = (b"\x01\x01" * width + b"\0\0") * height + b"\0\1"
    palette = bytes(4) + b"\xff\0\0\0" + bytes(4 * 254)  # 1 is blue
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + palette + pixels
