"""From a request's bytes to pixels: within limits, upright, and with a clear error for everything else."""

import base64
import contextlib
import random
import struct
import zlib

import pytest
from PIL import Image

from lookonce_server.errors import InvalidImageError
from lookonce_server.images import FORMATS, ImageLimits, decode_image, read_data_url

from .samples import encoded

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=100 * 100)
PARAM = "messages[0].content[1].image_url.url"
# Upper half red, lower half blue, wider than high.
PICTURE = Image.new("RGB", (40, 20), (0, 0, 255))
PICTURE.paste((255, 0, 0), (0, 0, 40, 10))


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def refused(function, value, match: str, limits: ImageLimits = LIMITS) -> None:
    with pytest.raises(InvalidImageError, match=match) as caught:
        function(value, limits, PARAM)
    assert caught.value.param == PARAM
    assert caught.value.code == "invalid_image"


def is_red(pixel: tuple[int, int, int]) -> bool:
    return pixel[0] > 200 and pixel[2] < 60


# --- data URLs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream", "image/png;charset=x", ""])
def test_a_data_url_gives_its_bytes_whatever_type_it_claims(kind):
    assert read_data_url(data_url(b"\x00\xff pixels", kind), LIMITS, PARAM) == b"\x00\xff pixels"


def test_case_and_line_breaks_do_not_matter():
    url = data_url(b"some pixels").replace("data:", "DATA:").replace("base64,", "BASE64,\n ")
    assert read_data_url(url[:-4] + "\r\n" + url[-4:], LIMITS, PARAM) == b"some pixels"


@pytest.mark.parametrize(
    "url", ["http://example.com/a.png", "https://example.com/a.png", "file:///etc/passwd", "ftp://x", "/a.png", ""]
)
def test_nothing_is_fetched(url):
    refused(read_data_url, url, "does not load remote images")


def test_a_long_url_is_shown_in_part():
    with pytest.raises(InvalidImageError) as caught:
        read_data_url("http://example.com/" + "x" * 10_000, LIMITS, PARAM)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("url", ["data:image/png,abc", "data:image/png;base64", "data:;hex,00"])
def test_a_data_url_that_is_not_base64(url):
    refused(read_data_url, url, "not a base64 data: URL")


@pytest.mark.parametrize("payload", ["abc", "ab=c", "a*cd", "====", "ab\u00e9d", "\u6f22\u5b57\u6f22\u5b57"])
def test_damaged_base64(payload):
    refused(read_data_url, f"data:image/png;base64,{payload}", "base64 is damaged")


@pytest.mark.parametrize("payload", ["", " \n"])
def test_an_empty_image(payload):
    refused(read_data_url, f"data:image/png;base64,{payload}", "empty")


def test_the_limit_of_bytes_is_held():
    assert len(read_data_url(data_url(b"x" * LIMITS.max_bytes), LIMITS, PARAM)) == LIMITS.max_bytes
    refused(read_data_url, data_url(b"x" * (LIMITS.max_bytes + 1)), "limit of 10000 bytes")
    refused(read_data_url, data_url(b"x" * (LIMITS.max_bytes + 3)), "limit of 10000 bytes")


# --- decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_decoded(form):
    image = decode_image(encoded(PICTURE, form), LIMITS, PARAM)
    assert (image.size, image.mode) == (PICTURE.size, "RGB")
    assert is_red(image.getpixel((20, 2)))
    assert not is_red(image.getpixel((20, 17)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_every_kind_of_pixel_becomes_rgb(mode):
    form = "JPEG" if mode == "CMYK" else "PNG"
    picture = PICTURE.convert("I").convert("I;16") if mode == "I;16" else PICTURE.convert(mode)
    assert decode_image(encoded(picture, form), LIMITS, PARAM).mode == "RGB"


def test_an_animation_is_its_first_frame():
    frames = [PICTURE, PICTURE.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert is_red(decode_image(data, LIMITS, PARAM).getpixel((20, 2)))


@pytest.mark.parametrize(
    ("orientation", "size", "red_at"),
    [(1, (40, 20), (20, 2)), (3, (40, 20), (20, 17)), (6, (20, 40), (17, 20)), (8, (20, 40), (2, 20))],
)
def test_a_turned_photograph_is_put_upright(orientation, size, red_at):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_image(encoded(PICTURE, "JPEG", quality=95, exif=exif), LIMITS, PARAM)
    assert image.size == size
    assert is_red(image.getpixel(red_at))
    assert not is_red(image.getpixel((size[0] - 1 - red_at[0], size[1] - 1 - red_at[1])))


@pytest.mark.parametrize("data", [b"", b"pixels", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4", b"GIF"])
def test_bytes_that_are_no_image(data):
    refused(decode_image, data, "no image of a known format")


def test_a_format_that_is_not_accepted():
    refused(decode_image, encoded(PICTURE, "TIFF"), "no image of a known format")


@pytest.mark.parametrize("form", FORMATS)
def test_half_an_image(form):
    data = encoded(Image.effect_noise((64, 64), 80).convert("RGB"), form)
    refused(decode_image, data[: len(data) // 2], "damaged|known format")


@pytest.mark.parametrize("form", FORMATS)
def test_whatever_is_damaged_it_is_an_image_or_one_clear_error(form):
    whole = encoded(PICTURE, form)
    rng = random.Random(form)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(InvalidImageError):
            assert decode_image(bytes(data), LIMITS, PARAM).mode == "RGB"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's own remark on it
def test_damaged_exif_does_not_cost_the_picture():
    data = encoded(PICTURE, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff broken")
    assert decode_image(data, LIMITS, PARAM).size == PICTURE.size


def test_the_limit_of_pixels_is_held_before_decoding():
    assert decode_image(encoded(Image.new("RGB", (100, 100)), "PNG"), LIMITS, PARAM).size == (100, 100)
    refused(decode_image, encoded(Image.new("RGB", (101, 100)), "PNG"), "101 x 100 pixels; the limit is 10000")


@pytest.mark.parametrize("side", [10_000, 30_000, 2_000_000_000])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    refused(decode_image, png_header(side, side), "pixels|damaged", ImageLimits())


def png_header(width: int, height: int) -> bytes:
    """A few bytes that claim to be a picture of that size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\x00" * 100)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
