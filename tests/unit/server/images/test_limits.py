"""Images that are too large, bombs, damaged, or two things at once: a picture or one clear error, at no great cost."""

import io
import struct
import time
import zlib

import pytest
from PIL import Image

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import FORMATS, ImageLimits, decode_image

from ....support import image_fuzz as image_fuzzing
from ....support.image_files import RED, chunk, encoded, gif_frames, many_scans, png, png_header

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=100 * 100, max_side=150, max_aspect=20)
PARAM = "messages[0].content[1].image_url.url"
PICTURE = Image.new("RGB", (40, 20), RED)
SAVED = [form for form in FORMATS if form != "HEIF"]
ZIP = b"PK\x03\x04" + bytes(26) + b"secret" + b"PK\x05\x06" + bytes(18)


def refused(data: bytes, match: str, limits: ImageLimits = LIMITS) -> None:
    with pytest.raises(InvalidImageError, match=match) as caught:
        decode_image(data, limits, PARAM)
    assert (caught.value.param, caught.value.code) == (PARAM, "invalid_image")
    assert "0x" not in str(caught.value)  # no address of an object


def is_read(data: bytes) -> bool:
    return decode_image(data, LIMITS, PARAM).size == PICTURE.size


# --- size -------------------------------------------------------------------------------------------------------------


def test_the_limit_of_pixels_is_held():
    assert decode_image(encoded(Image.new("RGB", (100, 100)), "PNG"), LIMITS, PARAM).size == (100, 100)
    refused(encoded(Image.new("RGB", (101, 100)), "PNG"), "101 x 100 pixels; the limit is 10000 in all")


def test_the_limit_of_a_side_is_held():
    assert decode_image(encoded(Image.new("L", (150, 8)), "PNG"), LIMITS, PARAM).size == (150, 8)
    refused(encoded(Image.new("L", (151, 8)), "PNG"), "151 x 8 pixels; the limit is 150 a side")
    refused(encoded(Image.new("L", (8, 151)), "PNG"), "8 x 151 pixels; the limit is 150 a side")


def test_a_line_is_refused_since_processors_would_blow_it_up():
    assert decode_image(encoded(Image.new("L", (100, 5)), "PNG"), LIMITS, PARAM).size == (100, 5)
    refused(encoded(Image.new("L", (4, 81)), "PNG"), "4 x 81 pixels; the longer side may be 20 times the shorter one")


def test_one_pixel_is_a_picture():
    assert decode_image(encoded(Image.new("L", (1, 1)), "PNG"), LIMITS, PARAM).size == (1, 1)


@pytest.mark.parametrize("side", [10_000, 30_000, 2_000_000_000])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    refused(png_header(side, side), "pixels|damaged", ImageLimits())


@pytest.mark.parametrize("form", SAVED)
def test_pixels_are_counted_before_they_are_decoded(form, monkeypatch):
    data = encoded(Image.new("RGB", (120, 120)), form)
    monkeypatch.setattr("lookonce_server.images.decode.decoder.to_rgb", lambda image: pytest.fail("decoded"))
    refused(data, "120 x 120 pixels")


# --- bombs ------------------------------------------------------------------------------------------------------------


def test_frames_that_are_not_read_cost_nothing():
    data = gif_frames(100_000)
    assert len(data) > 1_000_000
    begun = time.process_time()
    assert decode_image(data, LIMITS, PARAM).getpixel((0, 0)) == RED
    spent = time.process_time() - begun
    begun = time.process_time()
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 100_000  # what counting them costs
    assert spent < (time.process_time() - begun) / 10


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_compressed_texts_and_profiles_are_not_blown_up(kind):
    megabytes = zlib.compress(bytes(64 * 1024 * 1024))
    before = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    refused(png(1, 8, 0, b"\0", extra=chunk(kind, before + megabytes)), "too large", ImageLimits())


def test_many_texts_are_not_kept():
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1024 * 1024 - 1)))
    refused(png(1, 8, 0, b"\0", extra=text * 65), "Too much memory used in text chunks", ImageLimits())


def test_a_large_profile_is_passed_over():
    data = encoded(PICTURE, "JPEG", icc_profile=bytes(5_000_000))
    assert decode_image(data, ImageLimits(), PARAM).size == PICTURE.size


def test_exif_data_that_point_nowhere():
    entry = struct.pack("<HHII", 0x0112, 3, 0xFFFFFFFF, 0xFFFFFFF0)
    data = encoded(PICTURE, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + b"\0\0\0\0")
    assert is_read(data)


def test_a_jpeg_of_many_scans_is_a_picture_if_it_has_the_time():
    assert decode_image(many_scans((40, 20), 50), LIMITS, PARAM).size == (40, 20)


# --- damaged, and other things ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", SAVED)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_part_of_an_image_is_no_picture_half_grey(form, share):
    noise = Image.merge("RGB", [Image.effect_noise((64, 64), 80) for _ in range(3)])
    data = encoded(noise, form)
    refused(data[: int(share * len(data))], "damaged")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"pixels",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.4",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"GIF",
        b"RIFF\0\0\0\0WAVE",
        b"\0\0\0\x18ftypisom\0\0\0\0isom",
        b"\0\0\0\x18ftypmif1\0\0\0\0xxxxyyyy",
        b"P6 1 1 255\n\0\0\0",
        b"8BPS\0\1",
        b"\0\0\1\0",
        b"icns\0\0\0\x08",
        b"\x00\x00\x00\x0cjP  \r\n\x87\n",
        b"qoif",
    ],
)
def test_bytes_that_are_no_image_of_an_accepted_format(data):
    refused(data + bytes(64), f"no image of a known format \\({', '.join(FORMATS)}\\)")


@pytest.mark.parametrize("form", ["PPM", "ICO", "TGA", "PCX", "JPEG2000", "SGI", "DDS", "EPS", "PDF"])
def test_no_other_decoder_is_ever_asked(form):
    refused(encoded(PICTURE, form), "no image of a known format")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("other", [ZIP, b"<script>alert(1)</script>", b"%PDF-1.4\n1 0 obj", b"\0" * 1000])
def test_what_is_appended_to_an_image_changes_nothing(form, other):
    assert is_read(encoded(PICTURE, form) + other)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("other", [ZIP, b"<html>", b"%PDF-1.4\n", b" "])
def test_what_begins_as_something_else_is_no_image(form, other):
    refused(other + encoded(PICTURE, form), "no image of a known format")


def test_a_script_that_begins_as_an_image_is_a_damaged_one():
    refused(b"GIF89a=1;alert('x');//" + bytes(64), "damaged|pixels")
    refused(b"\x89PNG\r\n\x1a\n<html><script>alert(1)</script>", "damaged")
    refused(b"\xff\xd8\xff<?php system($_GET['x']); ?>" + bytes(64), "damaged")
    refused(b"BM<script>alert(1)</script>" + bytes(64), "damaged")


def test_an_image_meets_the_decoder_that_its_first_bytes_name_and_no_other():
    refused(b"GIF89a" + encoded(PICTURE, "PNG"), "damaged|pixels")
    refused(b"\xff\xd8\xff\xe0" + encoded(PICTURE, "GIF"), "damaged")


@pytest.mark.filterwarnings("ignore:IM image format is deprecated")
@pytest.mark.parametrize("start", [b"II*\0: y\r\n", b"GIF89a: y\r\n"])
def test_a_sound_picture_of_another_format_behind_first_bytes_of_an_accepted_one(start):
    """Pillow takes this format whatever a file's first bytes are."""
    data = start + encoded(PICTURE.convert("L"), "IM")
    with Image.open(io.BytesIO(data), formats=("IM",)) as image:
        assert image.size == PICTURE.size
    refused(data, "damaged|pixels")


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_damaged_it_is_a_picture_or_one_clear_error(seed):
    """See `image_fuzzing`, which does this for longer."""
    assert {"decoded", "The image is damaged: it begin"} <= set(image_fuzzing.outcomes(400, seed))
