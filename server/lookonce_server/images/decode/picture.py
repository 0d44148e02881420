"""Render an opened image as a person would see it."""

import io

from PIL import ExifTags, Image, ImageChops, ImageCms

from lookonce_server.errors import InvalidImageError

_Turn = Image.Transpose
_TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}
_NUMBERS = {"I", "F"}  # 32 bits a pixel, with no word on what is white
_SIXTEEN_BITS = {"I;16", "I;16L", "I;16B", "I;16N"}
_KEY_SCALES = {"1": 255, "L;2": 85, "L;4": 17}  # from a sample of that few bits to eight
_MAX_PROFILE = 4 * 1024 * 1024  # bytes
# The mode of the pixels that a colour profile is for, by the profile's name for it.
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def to_rgb(image: Image.Image) -> Image.Image:
    """Render an image as RGB: its frame, upright, colour-managed, on white.

    Args:
        image: opened, not loaded.

    Raises:
        InvalidImageError: its pixels are numbers, not colours.
        Exception: decoders raise almost anything on damaged files.
    """
    if image.mode in _NUMBERS:
        raise InvalidImageError("The image has 32 bits a channel; up to 16 are read.")
    if image.info.get("default_image"):  # of an animated PNG, for those who know no animations
        image.seek(1)
    frame = _frame(image)
    _scale_key(image)
    image.load()
    pixels = _to_eight_bits(image)
    alpha = _alpha(pixels, frame)
    picture = _to_srgb(pixels, image.info.get("icc_profile"))
    if alpha is not None:
        picture = Image.composite(picture, Image.new("RGB", picture.size, "white"), alpha)
    turn = _TURNS.get(_orientation(image))
    return picture if turn is None else picture.transpose(turn)


def _frame(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Return the box of a GIF's first frame; None if it fills the canvas.

    Later frames are laid over it by Pillow.
    """
    if image.format != "GIF" or image.tell() or not image.tile:  # type: ignore[attr-defined]
        return None
    extents: tuple[int, int, int, int] = image.tile[0].extents  # type: ignore[attr-defined]
    return None if extents == (0, 0, *image.size) else extents


def _scale_key(image: Image.Image) -> None:
    """Scale the transparent colour of a PNG to eight bits, like its pixels."""
    key = image.info.get("transparency")
    if image.format != "PNG" or image.mode == "P" or key is None or not image.tile:  # type: ignore[attr-defined]
        return
    raw = str(image.tile[0].args)  # type: ignore[attr-defined]
    if isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key) if "16" in raw else key
    else:
        image.info["transparency"] = key * _KEY_SCALES.get(raw, 1)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode not in _SIXTEEN_BITS:
        return image
    scaled = image.point(lambda value: value * (1 / 256)).convert("L")
    if (key := image.info.get("transparency")) is not None:
        scaled.info["transparency"] = key >> 8
    return scaled


def _alpha(image: Image.Image, frame: tuple[int, int, int, int] | None) -> Image.Image | None:
    """Return the opacity of each pixel, as L; None if all are opaque."""
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if frame is None:
        return alpha
    inside = Image.new("L", image.size, 0)
    inside.paste(255, frame)
    return inside if alpha is None else ImageChops.multiply(alpha, inside)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to sRGB by the colour profile, unless that is broken."""
    if profile and len(profile) <= _MAX_PROFILE:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            kind = _PROFILE_MODES.get(source.profile.xcolor_space.strip(), "")
            if kind and (kind == "CMYK") == (image.mode == "CMYK"):
                pixels = _plain(image, kind)
                target = ImageCms.createProfile("sRGB")
                return ImageCms.applyTransform(pixels, ImageCms.buildTransform(source, target, kind, "RGB"))  # type: ignore[return-value]
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return _plain(image, "RGB")


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """Convert to a mode without transparency. Premultiplied colours are divided first."""
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    return image if image.mode == mode else image.convert(mode)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, if the EXIF data are damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises almost anything on odd EXIF data, and the picture is there
        return 1
