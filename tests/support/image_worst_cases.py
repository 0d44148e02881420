"""Pictures as large as the default limits accept, of every format, and the slowest ones that were found.

`python -m tests.support.image_worst_cases` decodes one of each. Most have 40 million pixels.
"""

import argparse
import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
from PIL import Image

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import FORMATS, DecodeProcesses, ImageLimits

from .image_files import encoded, many_scans, run_length_bmp

SIZE = (8000, 5000)


def grainy(size: tuple[int, int] = SIZE, mode: str = "RGB") -> Image.Image:
    """As hard to compress as fits into the limit: clouds, with some grain in the middle."""
    clouds = [Image.effect_noise((size[0] // 16, size[1] // 16), 90).resize(size) for _ in mode]
    picture = Image.merge(mode, clouds)
    side = min(1200, *size)
    grain = Image.merge(mode, [Image.effect_noise((side, side), 90) for _ in mode])
    picture.paste(grain, ((size[0] - side) // 2, (size[1] - side) // 2))
    return picture


def worst_cases() -> Iterator[tuple[str, Callable[[], bytes]]]:
    yield "PNG", lambda: encoded(grainy((2400, 1500)).resize(SIZE, Image.Resampling.NEAREST), "PNG", compress_level=6)
    yield "JPEG", lambda: encoded(grainy(), "JPEG", quality=85)
    yield "JPEG progressive", lambda: encoded(grainy(), "JPEG", quality=85, progressive=True)
    yield "JPEG progressive, CMYK", lambda: encoded(grainy(mode="CMYK"), "JPEG", quality=70, progressive=True)
    yield "JPEG of 300 scans", lambda: many_scans(SIZE, 300)
    yield "WEBP", lambda: encoded(grainy(), "WEBP", quality=75, method=2)
    yield (
        "WEBP lossless",
        lambda: encoded(grainy((2400, 1500)).resize(SIZE, Image.Resampling.NEAREST), "WEBP", lossless=True, method=0),
    )
    yield "GIF", lambda: encoded(grainy((2400, 1500)).resize(SIZE, Image.Resampling.NEAREST).quantize(64, 2), "GIF")
    yield "BMP, 1 bit", lambda: encoded(grainy().convert("1"), "BMP")
    yield "BMP, runs of one pixel (10 million)", lambda: run_length_bmp(4000, 2500)
    yield "TIFF, deflate", lambda: encoded(grainy((2400, 1500)).resize(SIZE, 0), "TIFF", compression="tiff_deflate")
    yield "TIFF, LZMA", lambda: encoded(grainy((2400, 1500)).resize(SIZE, 0), "TIFF", compression="lzma")
    yield "AVIF", lambda: encoded(grainy(), "AVIF", quality=75, speed=10)
    if "HEIF" in FORMATS:
        yield "HEIF", lambda: encoded(grainy(), "HEIF", quality=60)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose names begin so")
    parser.add_argument("--timeout", type=float, default=20.0)
    options = parser.parse_args()
    if "HEIF" in FORMATS:
        import pillow_heif

        pillow_heif.register_heif_opener()
    limits = ImageLimits()
    for name, make in worst_cases():
        if not name.startswith(options.only):
            continue
        data = make()
        with closing(DecodeProcesses(1, options.timeout)) as processes:
            await processes.decode(encoded(Image.new("L", (1, 1)), "PNG"), limits, "")  # starts it
            (process,) = psutil.Process().children()
            begun, cpu = time.monotonic(), sum(process.cpu_times()[:2])
            try:
                said = str((await processes.decode(data, limits, "")).size)
            except InvalidImageError as error:
                said = str(error)
            taken = time.monotonic() - begun
            used = (
                f"{sum(process.cpu_times()[:2]) - cpu:5.1f} s {peak(process.pid):5d} MiB"
                if process.is_running()
                else "-"
            )
        print(f"{name:38} {len(data) / 2**20:5.1f} MiB {taken:5.1f} s   process: {used}  {said}", flush=True)  # noqa: T201


def peak(pid: int) -> int:
    """The most memory that a process has had, in MiB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) // 1024


if __name__ == "__main__":
    asyncio.run(main())
