"""Decoding gives what a person would see: each picture here looks the same in Chromium, where that reads the format."""

import contextlib
import struct
from pathlib import Path

import pytest
from PIL import Image

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import FORMATS, ImageLimits, decode_image

from ....support.image_files import BLACK, BLUE, GREEN, RED, WHITE, chunk, encoded, gif, png, samples, swapping_profile

GREY = (128, 128, 128)
# Upper half red, lower half blue, wider than high.
PICTURE = Image.new("RGB", (40, 20), BLUE)
PICTURE.paste(RED, (0, 0, 40, 10))
SAVED = [form for form in FORMATS if form != "HEIF"]  # which is read only
LOSSLESS = {"WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}


def seen(data: bytes) -> Image.Image:
    image = decode_image(data, ImageLimits(), "image")
    assert image.mode == "RGB"
    return image


def row(data: bytes) -> list[tuple[int, int, int]]:
    """The first line of a picture."""
    image = seen(data)
    return [image.getpixel((x, 0)) for x in range(image.width)]


def saved(image: Image.Image, form: str, **options) -> bytes:
    return encoded(image, form, **LOSSLESS.get(form, {}), **options)


def is_close(pixel, expected, tolerance: int = 4) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, expected, strict=True))


@pytest.mark.parametrize("form", SAVED)
def test_every_format_is_read(form):
    image = seen(saved(PICTURE, form))
    assert image.size == PICTURE.size
    assert is_close(image.getpixel((20, 2)), RED)
    assert is_close(image.getpixel((20, 17)), BLUE)


@pytest.mark.parametrize("compression", [None, "packbits", "tiff_lzw", "tiff_deflate", "jpeg", "lzma", "zstd"])
def test_every_common_compression_of_tiff_is_read(compression):
    image = seen(encoded(PICTURE, "TIFF", compression=compression))
    assert is_close(image.getpixel((20, 2)), RED, 40)
    assert is_close(image.getpixel((20, 17)), BLUE, 40)


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_of_tiff_are_read(order):
    entries = [(256, 2), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8 + 2 + 7 * 12 + 4), (279, 2)]
    packed = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries)
    start = b"II*\0" if order == "<" else b"MM\0*"
    data = start + struct.pack(f"{order}IH", 8, len(entries)) + packed + bytes(4) + bytes([0, 255])
    assert row(data) == [BLACK, WHITE]


def test_a_telephones_photograph_is_read_where_the_extra_is_installed():
    """64 x 32 pixels, the upper half red, which the file says to turn right."""
    data = (Path(__file__).parents[3] / "support" / "turned.heic").read_bytes()
    if "HEIF" in FORMATS:
        image = seen(data)
        assert image.size == (32, 64)
        assert is_close(image.getpixel((28, 5)), RED)
        assert is_close(image.getpixel((3, 60)), BLUE)
    else:
        with pytest.raises(InvalidImageError, match="no image of a known format"):
            seen(data)


# --- upright ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize(
    ("orientation", "size", "red_at"),
    [
        (1, (40, 20), (20, 2)),
        (2, (40, 20), (20, 2)),
        (3, (40, 20), (20, 17)),
        (4, (40, 20), (20, 17)),
        (5, (20, 40), (2, 20)),
        (6, (20, 40), (17, 20)),
        (7, (20, 40), (17, 20)),
        (8, (20, 40), (2, 20)),
    ],
)
def test_a_turned_photograph_is_put_upright(form, orientation, size, red_at):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = seen(saved(PICTURE, form, exif=exif))
    assert image.size == size
    assert is_close(image.getpixel(red_at), RED)
    assert is_close(image.getpixel((size[0] - 1 - red_at[0], size[1] - 1 - red_at[1])), BLUE)


def test_a_compressed_tiff_is_turned_once():
    image = seen(encoded(PICTURE, "TIFF", compression="tiff_lzw", tiffinfo={0x0112: 6}))
    assert image.size == (20, 40)
    assert image.getpixel((17, 20)) == RED


def test_damaged_exif_does_not_cost_the_picture():
    data = encoded(PICTURE, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff broken")
    assert seen(data).size == PICTURE.size


# --- depths -----------------------------------------------------------------------------------------------------------


def test_sixteen_bits_are_scaled_and_not_cut_off():
    assert row(png(3, 16, 0, samples(0, 0x8000, 0xFFFF))) == [BLACK, GREY, WHITE]
    assert row(png(2, 16, 2, samples(0xFFFF, 0x8000, 0, 0, 0, 0xFFFF))) == [(255, 128, 0), BLUE]


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_sixteen_bits_of_a_tiff_are_scaled(compression):
    image = Image.frombytes("I;16", (3, 1), struct.pack("<3H", 0, 0x8000, 0xFFFF))
    assert row(encoded(image, "TIFF", compression=compression)) == [BLACK, GREY, WHITE]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_that_are_no_colours_are_refused(mode):
    with pytest.raises(InvalidImageError, match="32 bits a channel; up to 16 are read"):
        seen(encoded(Image.new(mode, (2, 1)), "TIFF"))


def test_one_bit_and_few_bits():
    assert row(png(8, 1, 0, b"\x55")) == [BLACK, WHITE] * 4
    assert row(png(4, 2, 0, b"\x1b")) == [BLACK, (85, 85, 85), (170, 170, 170), WHITE]
    assert row(encoded(Image.new("1", (3, 1), 1), "TIFF", compression="group4")) == [WHITE] * 3


# --- on white ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF", "TIFF"])
def test_what_is_transparent_is_white_whatever_colour_hides_there(form):
    picture = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (8, 0, 16, 16))
    image = seen(saved(picture, form))
    assert is_close(image.getpixel((2, 8)), WHITE)
    assert is_close(image.getpixel((13, 8)), BLUE)


def test_half_transparent_is_half_white():
    assert row(png(2, 8, 6, bytes([*RED, 128, *BLACK, 255]))) == [(255, 127, 127), BLACK]
    assert row(png(2, 8, 4, bytes([0, 128, 0, 255]))) == [(127, 127, 127), BLACK]
    assert row(png(2, 16, 4, samples(0, 0x8000, 0, 0xFFFF))) == [(127, 127, 127), BLACK]
    assert row(png(2, 16, 6, samples(0xFFFF, 0, 0, 0x8000, 0, 0, 0xFFFF, 0xFFFF))) == [(255, 127, 127), BLUE]


def test_a_palette_with_transparent_colours():
    palette = chunk(b"PLTE", bytes([*RED, *GREEN, *BLUE]))
    by_alpha = png(3, 8, 3, b"\0\1\2", extra=palette + chunk(b"tRNS", bytes([0, 128])))
    assert row(by_alpha) == [WHITE, (127, 255, 127), BLUE]
    by_index = png(3, 8, 3, b"\0\1\2", extra=palette + chunk(b"tRNS", bytes([255, 0])))
    assert row(by_index) == [RED, WHITE, BLUE]


@pytest.mark.parametrize(
    ("width", "depth", "kind", "pixels", "key", "expected"),
    [
        (2, 8, 0, b"\x07\x80", samples(7), [WHITE, GREY]),
        (2, 8, 2, bytes([*RED, *BLUE]), samples(*BLUE), [RED, WHITE]),
        (4, 2, 0, b"\x1b", samples(1), [BLACK, WHITE, (170, 170, 170), WHITE]),
        (2, 4, 0, b"\x05", samples(5), [BLACK, WHITE]),
        (2, 1, 0, b"\x40", samples(0), [WHITE, WHITE]),
        (3, 16, 0, samples(0, 0x8000, 0x1234), samples(0x8000), [BLACK, WHITE, (18, 18, 18)]),
        (2, 16, 2, samples(0xFFFF, 0, 0, 0x1205, 0x1305, 0x1405), samples(0x1205, 0x1305, 0x1405), [RED, WHITE]),
    ],
)
def test_the_one_transparent_colour_of_a_png(width, depth, kind, pixels, key, expected):
    assert row(png(width, depth, kind, pixels, extra=chunk(b"tRNS", key))) == expected


# --- first frames -----------------------------------------------------------------------------------------------------


def test_a_gif_whose_first_frame_is_smaller_than_its_canvas():
    image = seen(gif((4, 4), (2, 2, 2, 2), b"\1\1\1\1"))
    assert (image.getpixel((0, 0)), image.getpixel((3, 3))) == (WHITE, BLUE)
    image = seen(gif((4, 4), (2, 2, 2, 2), b"\1\1\1\0", transparent=0))
    assert [image.getpixel((i, i)) for i in range(4)] == [WHITE, WHITE, BLUE, WHITE]


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_an_animation_is_its_first_frame(form):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    options = {} if form == "TIFF" else {"duration": 1000}
    assert is_close(row(saved(frames[0], form, save_all=True, append_images=frames[1:], **options))[8], RED)


def test_an_animated_png_is_its_animation_and_not_the_picture_for_those_who_cannot_show_it():
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE, GREEN)]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True, duration=1000)
    assert row(data) == [BLUE] * 4


def test_a_photograph_with_a_second_one_behind_it():
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert is_close(row(data)[8], RED)


# --- colours ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
def test_colours_are_those_of_the_profile(form):
    data = saved(Image.new("RGB", (8, 8), (200, 50, 10)), form, icc_profile=swapping_profile())
    assert is_close(row(data)[4], (10, 50, 200))


def test_a_profile_counts_for_a_palette_and_under_transparency():
    palette = Image.new("RGB", (4, 1), (200, 50, 10)).quantize(2)
    assert is_close(row(encoded(palette, "PNG", icc_profile=swapping_profile()))[0], (10, 50, 200))
    clear = Image.new("RGBA", (4, 1), (200, 50, 10, 0))
    assert row(encoded(clear, "PNG", icc_profile=swapping_profile()))[0] == WHITE


@pytest.mark.parametrize("length", [0, 1, 127, 128, 200, 400])
def test_a_broken_profile_is_as_none(length):
    data = encoded(Image.new("RGB", (2, 1), (200, 50, 10)), "PNG", icc_profile=swapping_profile()[:length])
    assert row(data)[0] == (200, 50, 10)


def test_grey_with_a_profile_for_colours_stays_grey():
    data = encoded(Image.new("L", (2, 1), 77), "PNG", icc_profile=swapping_profile())
    assert is_close(row(data)[0], (77, 77, 77))


def test_printing_colours():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    photoshops = encoded(red, "JPEG")  # Adobe's, whose ink is upside down
    assert b"Adobe" in photoshops
    assert is_close(row(photoshops)[4], RED)
    marker = photoshops.index(b"\xff\xee")
    assert is_close(row(photoshops[:marker] + photoshops[marker + 16 :])[4], RED)
    assert row(encoded(red, "TIFF"))[4] == RED
    with_profile = encoded(red, "JPEG", icc_profile=swapping_profile())  # which speaks of other pixels
    assert is_close(row(with_profile)[4], RED)


def test_ycck_is_turned_into_printing_colours_first():
    """As Adobe stores it, upside down: brightness 0 and no colour are paper without ink."""
    data = bytearray(encoded(Image.new("CMYK", (8, 8), (255, 128, 128, 0)), "JPEG"))
    assert row(bytes(data))[4] != WHITE
    data[data.index(b"Adobe") + 11] = 2  # what says that the first three channels are YCbCr
    assert is_close(row(bytes(data))[4], WHITE)


@pytest.mark.parametrize("dpi", [(1, 1), (72, 300), (65535, 1)])
def test_what_a_file_says_of_inches_changes_nothing(dpi):
    assert seen(encoded(PICTURE, "JPEG", dpi=dpi)).size == PICTURE.size


def test_a_jpeg_may_lack_its_end_marker_and_nothing_else():
    noise = Image.effect_noise((90, 60), 90)
    pictures = [
        PICTURE,
        Image.new("RGB", (1, 1), BLUE),
        Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180))),
    ]
    for picture in pictures:
        for options in ({}, {"quality": 5}, {"subsampling": 0}):
            whole = encoded(picture, "JPEG", **options)
            assert whole.endswith(b"\xff\xd9")
            expected = seen(whole)
            assert seen(whole[:-2]) == seen(whole[:-1]) == expected
            for missing in (*range(3, 40), len(whole) // 2):  # what is not refused is the same picture
                with contextlib.suppress(InvalidImageError):
                    assert seen(whole[:-missing]) == expected
    whole = encoded(pictures[-1], "JPEG")
    for missing in (3, 4, 40, len(whole) // 2):
        with pytest.raises(InvalidImageError, match="truncated"):
            seen(whole[:-missing])
    # A whole scan could be missing, or all behind a restart marker.
    for options in ({"progressive": True}, {"progressive": True, "quality": 5}, {"restart_marker_blocks": 2}):
        with pytest.raises(InvalidImageError, match="truncated"):
            seen(encoded(pictures[-1], "JPEG", **options)[:-2])
