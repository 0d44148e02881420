"""Tell the place of each image token, for the families that cut pictures into tiles or separate rows of them.

| processor | tokens of a picture, in their order | text between them |
|---|---|---|
| LLaVA-NeXT | the picture squeezed to one tile; then all tiles as one grid, without rows and columns that are padding; each row ends with a newline token, an image token that shows nothing | none |
| LLaVA-OneVision | as LLaVA-NeXT, the grid made smaller where it has many more tokens than nine tiles | none |
| InternVL | tiles row by row, of the picture squeezed to them; then, if there are two or more, the picture squeezed to one tile | none |
| Idefics 3, SmolVLM | tiles row by row, of the picture squeezed to them; then the picture squeezed to one tile; that alone where it is not split | two markers before each tile, a line break after each row of tiles |
| Pixtral, Mistral 3 | one grid of the picture, squeezed to whole patches | a break after each row, an end after the last |
| LightOnOCR | as Pixtral's | none |

Boxes are stretched over what a tile's last patches leave over: of 384 pixels in patches of 14, as LLaVA-OneVision's, a
token's box is off by less than half of the token.

What is computed here from a picture's size is believed only where it gives as many tokens as the prompt has.
"""  # noqa: E501 (a table's rows)

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from transformers.image_processing_utils import select_best_resolution
from transformers.image_utils import ChannelDimension
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size

from lookonce_pruning import TileBlock, TileLayout
from lookonce_server.engines.visuals import Video, Visual

_WHOLE = (0.0, 0.0, 1.0, 1.0)
_NEGLIGIBLE = 1.1  # of LLaVA-OneVision: a grid no larger than this against its limit, by side, is left as it is

Tiling = Callable[[Any, int, int], tuple[TileBlock, ...]]


class Tiles:
    """Lay out the tokens of pictures as a model's processor does.

    Args:
        processor: of transformers.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._tiling = _TILINGS.get(type(processor).__name__)

    def layout(self, visual: Visual) -> TileLayout | None:
        """Return the layout of a picture, or of each frame of a video; None where it is not known.

        To be believed where it has as many tokens as the prompt; see `fitting_layout`.
        """
        if self._tiling is None:
            return None
        picture = visual.frames[0] if isinstance(visual, Video) else visual
        try:
            return TileLayout(self._tiling(self._processor, *picture.size))
        except (AttributeError, TypeError, ValueError, ZeroDivisionError):
            return None  # the processor is set up in a way that is not known here


def _llava_next(processor: Any, width: int, height: int) -> tuple[TileBlock, ...]:
    side = _tile_side(processor.image_processor)
    patches = side // processor.patch_size
    return (TileBlock(1, 1, patches, patches, 0, *_WHOLE), _unpadded(processor, width, height, side, patches))


def _llava_onevision(processor: Any, width: int, height: int) -> tuple[TileBlock, ...]:
    patches = math.isqrt(processor.num_image_tokens)
    grid = _unpadded(processor, width, height, _tile_side(processor.image_processor), patches)
    limit = int(processor.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(grid.rows * grid.columns / (limit * patches**2))
    if ratio > _NEGLIGIBLE:
        grid = grid._replace(rows=int(grid.rows // ratio), columns=int(grid.columns // ratio))
    return (TileBlock(1, 1, patches, patches, 0, *_WHOLE), grid)


def _unpadded(processor: Any, width: int, height: int, side: int, patches: int) -> TileBlock:
    """Lay out the tiles of a picture as one grid, without padding and with newlines.

    Two roundings meet: the picture is padded in pixels, and rows and columns of tokens are taken off by its shape.

    Args:
        processor: of transformers.
        width: of the picture.
        height: of the picture.
        side: of a tile, in pixels.
        patches: tokens along it.
    """
    resolutions = processor.image_processor.image_grid_pinpoints
    target_height, target_width = select_best_resolution((height, width), resolutions)
    if target_width / width < target_height / height:
        new_width, new_height = target_width, min(math.ceil(height * target_width / width), target_height)
    else:
        new_width, new_height = min(math.ceil(width * target_height / height), target_width), target_height
    rows, columns = target_height // side * patches, target_width // side * patches
    off_top = off_left = 0
    if width / height > columns / rows:
        off_top = (rows - int(round(height * (columns / width), 7))) // 2
    else:
        off_left = (columns - int(round(width * (rows / height), 7))) // 2
    pixels = side / patches  # of the padded picture, a token
    left, top = (target_width - new_width) // 2, (target_height - new_height) // 2
    return TileBlock(
        1,
        1,
        rows - 2 * off_top,
        columns - 2 * off_left,
        1,
        (off_left * pixels - left) / new_width,
        (off_top * pixels - top) / new_height,
        ((columns - off_left) * pixels - left) / new_width,
        ((rows - off_top) * pixels - top) / new_height,
    )


def _tile_side(images: Any) -> int:
    """Return the side of LLaVA-NeXT's tiles, in pixels.

    Raises:
        ValueError: tiles are resized or cropped once more.
    """
    size = images.size.height or images.size.shortest_edge
    side = images.crop_size.height if images.crop_size else size
    if size != side or images.size.width not in (None, side):
        raise ValueError(f"size {images.size}: expected that of tiles, {side}")
    return int(side)


def _internvl(processor: Any, width: int, height: int) -> tuple[TileBlock, ...]:
    images = processor.image_processor
    columns, rows = 1, 1
    if images.max_patches > 1:
        size = (images.size.height, images.size.width)
        columns, rows = get_optimal_tiled_canvas((height, width), size, images.min_patches, images.max_patches)
    return _split(rows, columns, processor.image_seq_length)


def _idefics3(processor: Any, width: int, height: int) -> tuple[TileBlock, ...]:
    images = processor.image_processor
    side = images.max_image_size["longest_edge"]
    if not images.do_image_splitting:
        return _split(1, 1, processor.image_seq_len)
    if images.do_resize:
        width, height = _with_longest_edge(width, height, images.size.longest_edge)
    ratio = width / height
    if width >= height:
        width = _round_up(width, side)
        height = _round_up(int(width / ratio), side)
    else:
        height = _round_up(height, side)
        width = _round_up(int(height * ratio), side)
    return _split(height // side, width // side, processor.image_seq_len)


def _with_longest_edge(width: int, height: int, edge: int) -> tuple[int, int]:
    """Return width and height with that longest edge; the other one is even."""
    ratio = width / height
    shorter = int(edge / ratio) if width >= height else int(edge * ratio)
    shorter = max(shorter + shorter % 2, 1)
    return (edge, shorter) if width >= height else (shorter, edge)


def _round_up(length: int, step: int) -> int:
    return math.ceil(length / step) * step


def _split(tile_rows: int, tile_columns: int, tokens: int) -> tuple[TileBlock, ...]:
    """Lay out tiles and a smaller view of all behind them; one tile is that view.

    Args:
        tile_rows: of tiles.
        tile_columns: of tiles.
        tokens: of each, a square.
    """
    side = math.isqrt(tokens)
    view = TileBlock(1, 1, side, side, 0, *_WHOLE)
    if tile_rows * tile_columns == 1:
        return (view,)
    return (TileBlock(tile_rows, tile_columns, side, side, 0, *_WHOLE), view)


def _pixtral(processor: Any, width: int, height: int) -> tuple[TileBlock, ...]:
    side = processor.patch_size * processor.spatial_merge_size
    return _rows(processor, width, height, (side, side))


def _lighton_ocr(processor: Any, width: int, height: int) -> tuple[TileBlock, ...]:
    patch = processor.image_processor.patch_size
    return _rows(processor, width, height, (patch["height"], patch["width"]))


def _rows(processor: Any, width: int, height: int, multiple: tuple[int, int]) -> tuple[TileBlock, ...]:
    """Lay out rows of tokens, over as many whole tokens as the resized picture has.

    Args:
        processor: of transformers.
        width: of the picture.
        height: of the picture.
        multiple: of which height and width of the resized picture are.
    """
    size, side = processor.image_processor.size, processor.patch_size * processor.spatial_merge_size
    largest = (size.longest_edge, size.longest_edge) if size.longest_edge else (size.height, size.width)
    pixels = np.broadcast_to(np.uint8(0), (height, width, 3))  # of which the size alone is read
    new_height, new_width = get_resize_output_image_size(pixels, largest, multiple, ChannelDimension.LAST)
    rows, columns = new_height // side, new_width // side
    return (TileBlock(1, 1, rows, columns, 0, 0.0, 0.0, columns * side / new_width, rows * side / new_height),)


_TILINGS: dict[str, Tiling] = {
    "LlavaNextProcessor": _llava_next,
    "LlavaOnevisionProcessor": _llava_onevision,
    "InternVLProcessor": _internvl,
    "Idefics3Processor": _idefics3,
    "SmolVLMProcessor": _idefics3,
    "PixtralProcessor": _pixtral,
    "LightOnOcrProcessor": _lighton_ocr,
}
