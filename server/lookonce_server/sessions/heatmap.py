"""Draw a context's heat map: scores of image tokens, kept ones framed.

The colours are those of viridis, which also colour-blind people can tell apart, from the lowest score of the image to
the highest, by the square root, since a few tokens draw most of the attention. Where two tokens show the same, as one
of a tile and one of a smaller view of all, the colour is that of the higher score. Frames are white within black, which
shows on any colour. The same context gives the same pixels.
"""

import io
from typing import NamedTuple, Self

import numpy as np
from PIL import Image, ImageDraw

from lookonce_pruning import TileLayout
from lookonce_server.engines.geometry import Area

_VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"]
_OPACITY = 0.5  # of the map over a picture
_MAX_SIDE = 4096  # pixels, either side
_STRIP = 24  # pixels: the least height of a map without a grid, whose tokens stand in one row
_WHOLE = Area(0, 0, 1, 1)


class TokenGrid(NamedTuple):
    """Tokens that cover an area, as they lie there."""

    tokens: np.ndarray  # [rows, columns], int32: their indices
    area: Area  # in shares of the picture's width and height


class TokenMap(NamedTuple):
    """The scores of an image's tokens, and the tokens kept."""

    scores: np.ndarray  # [tokens], float32
    kept: list[int]  # indices
    grids: tuple[TokenGrid, ...]  # where the tokens lie; those that show nothing are in none

    @classmethod
    def of_grid(cls, scores: np.ndarray, kept: list[int], grid: tuple[int, ...], area: Area = _WHOLE) -> Self:
        """Return the map of a grid, a video's frames side by side.

        Args:
            scores: [tokens].
            kept: indices.
            grid: rows and columns; of a video frames before them.
            area: of the grid, in shares of the picture.
        """
        tokens = np.arange(len(scores), dtype=np.int32).reshape(-1, *grid[-2:])
        return cls(scores, kept, (TokenGrid(np.concatenate(tokens, axis=1), area),))

    @classmethod
    def of_layout(cls, scores: np.ndarray, kept: list[int], layout: TileLayout, frames: int = 1) -> Self:
        """Return the map of tiles, a video's frames side by side.

        Args:
            scores: [tokens].
            kept: indices.
            layout: of the picture, or of each frame.
            frames: how many.
        """
        # Padding stays where it is beside one picture, and has its place between frames.
        left = min(block.left for block in layout.blocks) if frames > 1 else 0.0
        width = (max(block.right for block in layout.blocks) - left if frames > 1 else 1.0) * frames
        grids = []
        for frame in range(frames):
            for tokens, block in zip(layout.indices(), layout.blocks, strict=True):
                start, end = (frame / frames + (side - left) / width for side in (block.left, block.right))
                area = Area(start, block.top, end, block.bottom)
                grids.append(TokenGrid(tokens.int().numpy() + frame * layout.tokens, area))
        return cls(scores, kept, tuple(grids))


def draw_grid(tokens: TokenMap, width: int) -> bytes:
    """Draw the map by itself, `width` pixels wide unless it would be too high.

    Its cells are squares, those of the grid with the most of them.
    """
    largest = max(tokens.grids, key=lambda grid: grid.tokens.size)
    rows, columns = largest.tokens.shape
    across, down = columns / (largest.area.right - largest.area.left), rows / (largest.area.bottom - largest.area.top)
    size = _fit(width, max(_STRIP, width * down / across))
    return _draw(Image.new("RGB", size), tokens, opacity=1)


def draw_over(picture: Image.Image, tokens: TokenMap, width: int) -> bytes:
    """Draw the map over a picture, in grey so that every colour is a score's.

    Args:
        picture: RGB.
        tokens: the map.
        width: of the result, in pixels, unless it would be too high.
    """
    size = _fit(width, width * picture.height / picture.width)
    canvas = picture.resize(size, Image.Resampling.BICUBIC).convert("L").convert("RGB")
    return _draw(canvas, tokens, _OPACITY)


def _draw(canvas: Image.Image, tokens: TokenMap, opacity: float) -> bytes:
    cells = [_cells(canvas, grid) for grid in tokens.grids]
    shown = np.full((canvas.height, canvas.width), -1, np.int32)  # the token whose colour a pixel has
    levels = np.append(tokens.scores, -np.inf)  # the last one is that of no token
    for grid, (rows, columns) in zip(tokens.grids, cells, strict=True):
        here = np.where((rows >= 0)[:, None] & (columns >= 0), grid.tokens[rows][:, columns], np.int32(-1))
        shown = np.where(levels[here] > levels[shown], here, shown)
    mask = ((shown >= 0) * round(255 * opacity)).astype(np.uint8)
    canvas.paste(Image.fromarray(_colours(tokens.scores)[shown]), (0, 0), Image.fromarray(mask))
    draw = ImageDraw.Draw(canvas)
    kept = set(tokens.kept)
    for grid, (rows, columns) in zip(tokens.grids, cells, strict=True):
        for row, column in zip(*np.nonzero(np.isin(grid.tokens, list(kept))), strict=True):
            _frame(draw, np.flatnonzero(columns == column), np.flatnonzero(rows == row))
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()


def _cells(canvas: Image.Image, grid: TokenGrid) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of each row of pixels, and the column of each column."""
    area = grid.area
    return (
        cells_of(canvas.height, area.top * canvas.height, area.bottom * canvas.height, grid.tokens.shape[0]),
        cells_of(canvas.width, area.left * canvas.width, area.right * canvas.width, grid.tokens.shape[1]),
    )


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
    """Return the colour of each token: [tokens, 3], uint8."""
    lowest, highest = float(scores.min()), float(scores.max())
    heat = np.sqrt((scores - lowest) / max(highest - lowest, 1e-30))
    stops = np.array([[int(stop[i : i + 2], 16) for i in (0, 2, 4)] for stop in _VIRIDIS])
    places = np.linspace(0, 1, len(stops))
    channels = [np.interp(heat, places, stops[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
