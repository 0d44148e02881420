"""Damages images of every format and decodes them: `python -m tests.support.image_fuzz --values 20000 --seed 1`.

Whatever the bytes are, decoding gives a picture within the limits or an InvalidImageError, and no warning.
"""

import argparse
import random
import resource
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import FORMATS, ImageLimits, decode_image

from .image_files import chunk, encoded, gif, gif_frames, png, run_length_bmp, swapping_profile

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=256 * 256, max_side=1000)
INTERESTING = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0"]


def samples() -> list[bytes]:
    """Sound images of every format, and of every kind of content that is treated in a way of its own."""
    noise = Image.merge("RGB", [Image.effect_noise((24, 18), 90) for _ in range(3)])
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "words"
    extras = {"icc_profile": swapping_profile(), "exif": exif}
    animated = {"save_all": True, "append_images": [noise.rotate(90), noise.rotate(180)], "duration": 10}
    clear = noise.copy()
    clear.putalpha(Image.effect_noise((24, 18), 90))
    found = [encoded(noise, form, **extras) for form in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF")]
    found += [encoded(clear, form) for form in ("PNG", "WEBP", "TIFF", "AVIF", "GIF")]
    found += [encoded(noise, form, **animated) for form in ("PNG", "WEBP", "GIF", "AVIF", "MPO")]
    found += [encoded(noise, "TIFF", compression=c) for c in ("packbits", "tiff_lzw", "tiff_deflate", "jpeg", "lzma")]
    found += [encoded(noise.convert("1"), "TIFF", compression=c) for c in ("group3", "group4", "tiff_ccitt")]
    found += [encoded(noise.convert("CMYK"), form, **extras) for form in ("JPEG", "TIFF")]
    found += [encoded(noise.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "I;16")]
    found += [encoded(noise.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB")]
    found += [encoded(noise, "JPEG", progressive=True), encoded(noise, "WEBP", lossless=True), encoded(noise, "GIF")]
    found += [gif((8, 8), (2, 2, 4, 4), bytes(16), transparent=0), gif_frames(9), run_length_bmp(9, 5)]
    found += [png(2, 8, 2, b"abcdef", extra=chunk(b"tRNS", b"\0\1\0\2\0\3") + chunk(b"zTXt", b"a\0\0x\x9c"))]
    if "HEIF" in FORMATS:
        found.append((Path(__file__).parent / "turned.heic").read_bytes())
    return found


def damaged(sound: list[bytes], rng: random.Random) -> bytes:
    """One of the images, damaged in one way or more."""
    data = bytearray(rng.choice(sound))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _damage(data, sound, rng)
    return bytes(data[: LIMITS.max_bytes])


def _damage(data: bytearray, sound: list[bytes], rng: random.Random) -> None:
    at = int(rng.random() ** 2 * (len(data) + 1))  # most of what is odd is near the beginning
    kind = rng.randrange(6)
    if kind == 0:
        data[at : at + 1] = rng.randbytes(1)
    elif kind == 1:
        value = rng.choice(INTERESTING)
        data[at : at + len(value)] = value
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at : at + rng.randrange(1, 64)]
    elif kind == 4:
        data[at:at] = rng.randbytes(rng.randrange(1, 64))
    else:
        other = rng.choice(sound)
        start = rng.randrange(len(other))
        data[at : at + rng.randrange(1, 64)] = other[start : start + rng.randrange(1, 200)]


def outcomes(values: int, seed: int) -> Iterator[str]:
    """What became of each of so many damaged images: 'decoded', or the beginning of what was said.

    Raises:
        Exception: something else than InvalidImageError came out, or a warning.
    """
    rng = random.Random(seed)
    sound = samples()
    for _ in range(values):
        data = damaged(sound, rng)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                image = decode_image(data, LIMITS, "image")
        except InvalidImageError as error:
            yield str(error)[:30]
        except BaseException:
            print(f"seed {seed}: {data.hex()}")  # noqa: T201
            raise
        else:
            assert image.mode == "RGB"
            assert image.width * image.height <= LIMITS.max_pixels
            yield "decoded"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    memory, begun = _peak(), time.monotonic()
    slowest, counts = 0.0, Counter[str]()
    before = begun
    for outcome in outcomes(options.values, options.seed):
        counts[outcome] += 1
        now = time.monotonic()
        slowest, before = max(slowest, now - before), now
    print(f"{options.values} values, seed {options.seed}: {before - begun:.0f} s, slowest {slowest:.2f} s")  # noqa: T201
    print(f"formats: {', '.join(FORMATS)}; peak memory {memory} MiB before, {_peak()} MiB after")  # noqa: T201
    for outcome, count in counts.most_common():
        print(f"{count:8} {outcome}")  # noqa: T201


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
