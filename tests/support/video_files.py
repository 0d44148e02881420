"""Small videos: a square that moves over a ground whose colour changes."""

import io
from collections.abc import Sequence
from typing import Any

import av
from PIL import Image, ImageDraw

SIZE = (96, 64)
_CODECS = {"mp4": "libx264", "webm": "libvpx-vp9"}


def moving_pictures(count: int, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    """Each picture's ground tells its number: red goes from 0 by 8."""
    pictures = []
    for i in range(count):
        picture = Image.new("RGB", size, (8 * i % 256, 40, 200))
        ImageDraw.Draw(picture).rectangle((2 * i % size[0], 10, 2 * i % size[0] + 20, 40), fill="white")
        pictures.append(picture)
    return pictures


def video_file(
    pictures: Sequence[Image.Image],
    *,
    kind: str = "mp4",
    fps: int = 10,
    codec: str | None = None,
    audio: bool = False,
    **options: str,
) -> bytes:
    """Encode pictures as a video."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream: Any = container.add_stream(codec or _CODECS[kind], rate=fps)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 4_000_000
        stream.options = options
        sound: Any = container.add_stream("aac", rate=48000) if audio else None
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
        if sound is not None:
            container.mux(sound.encode())
    return file.getvalue()


def animation_file(pictures: Sequence[Image.Image], kind: str = "GIF", milliseconds: int = 100) -> bytes:
    """Encode pictures as a GIF or an animated WebP."""
    file = io.BytesIO()
    more = {"lossless": True} if kind == "WEBP" else {}
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], duration=milliseconds, **more)
    return file.getvalue()


def number_of(picture: Image.Image) -> int:
    """The number of a picture of `moving_pictures`, up to 31, by its ground's colour."""
    red = picture.convert("RGB").getpixel((picture.width - 2, picture.height - 2))
    assert isinstance(red, tuple)
    return round(red[0] / 8)
