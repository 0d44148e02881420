"""Draw a context's heat map: scores of image tokens, kept ones framed.

The colours are those of viridis, which also colour-blind people can tell apart, from the lowest score of the image to
the highest, by the square root, since a few tokens draw most of the attention. Frames are white within black, which
shows on any colour. The same context gives the same pixels.
"""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from lookonce_server.engines.geometry import Area

_VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"]
_OPACITY = 0.5  # of the map over a picture
_MAX_SIDE = 4096  # pixels, either side
_STRIP = 24  # pixels: the least height of a map without a grid, whose tokens stand in one row


class TokenMap(NamedTuple):
    """The scores of an image's tokens, and the tokens kept."""

    scores: np.ndarray  # [rows, columns], float32
    kept: list[int]  # indices, row by row


def draw_grid(tokens: TokenMap, width: int) -> bytes:
    """Draw the map by itself, `width` pixels wide unless it would be too high."""
    rows, columns = tokens.scores.shape
    size = _fit(width, max(_STRIP, width * rows / columns))
    return _draw(Image.new("RGB", size), tokens, Area(0, 0, *size), opacity=1)


def draw_over(picture: Image.Image, tokens: TokenMap, area: Area, width: int) -> bytes:
    """Draw the map over a picture, in grey so that every colour is a score's.

    Args:
        picture: RGB.
        tokens: the map.
        area: the part of the picture, in its pixels, that the map's grid covers.
        width: of the result, in pixels, unless it would be too high.
    """
    size = _fit(width, width * picture.height / picture.width)
    x, y = size[0] / picture.width, size[1] / picture.height
    canvas = picture.resize(size, Image.Resampling.BICUBIC).convert("L").convert("RGB")
    return _draw(canvas, tokens, Area(area.left * x, area.top * y, area.right * x, area.bottom * y), _OPACITY)


def _draw(canvas: Image.Image, tokens: TokenMap, area: Area, opacity: float) -> bytes:
    rows = cells_of(canvas.height, area.top, area.bottom, tokens.scores.shape[0])
    columns = cells_of(canvas.width, area.left, area.right, tokens.scores.shape[1])
    colours = _colours(tokens.scores)[rows][:, columns]
    covered = (rows >= 0)[:, None] & (columns >= 0)
    mask = (covered * round(255 * opacity)).astype(np.uint8)
    canvas.paste(Image.fromarray(colours), (0, 0), Image.fromarray(mask))
    draw = ImageDraw.Draw(canvas)
    for token in tokens.kept:
        row, column = divmod(token, tokens.scores.shape[1])
        _frame(draw, np.flatnonzero(columns == column), np.flatnonzero(rows == row))
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()


def cells_of(pixels: int, first: float, last: float, cells: int) -> np.ndarray:
    """Return the cell that each pixel's middle lies in, -1 for none: [pixels].

    Args:
        pixels: number of pixels.
        first: start of the first cell, in pixels.
        last: end of the last cell, in pixels.
        cells: number of cells between the two.
    """
    indices = np.floor((np.arange(pixels) + 0.5 - first) * cells / (last - first)).astype(np.int64)
    return np.where((indices >= 0) & (indices < cells), indices, -1)


def _frame(draw: ImageDraw.ImageDraw, x: np.ndarray, y: np.ndarray) -> None:
    """Frame a token just inside its columns and rows, as far as there is room."""
    for inset, colour in ((0, "black"), (1, "white")):
        if len(x) > 2 * inset and len(y) > 2 * inset:
            draw.rectangle((x[inset], y[inset], x[-1 - inset], y[-1 - inset]), outline=colour)


def _fit(width: float, height: float) -> tuple[int, int]:
    """Round a size to whole pixels, 1 to _MAX_SIDE, in about that shape."""
    scale = min(1.0, _MAX_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _colours(scores: np.ndarray) -> np.ndarray:
    """Return the colour of each token: [rows, columns, 3], uint8."""
    lowest, highest = float(scores.min()), float(scores.max())
    heat = np.sqrt((scores - lowest) / max(highest - lowest, 1e-30))
    stops = np.array([[int(stop[i : i + 2], 16) for i in (0, 2, 4)] for stop in _VIRIDIS])
    places = np.linspace(0, 1, len(stops))
    channels = [np.interp(heat, places, stops[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
