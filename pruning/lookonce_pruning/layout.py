"""Tell the place of each image token in a picture that is shown in tiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

_COUNTS = 5  # of a block's numbers, before the shares


class TileBlock(NamedTuple):
    """Some tiles of one size that cover an area without gaps, as its only one or beside a smaller view of all.

    Their tokens come tile by tile, the tiles row by row, and within a tile row by row. The area is in shares of the
    picture's width and height; it reaches beyond 0 and 1 where tokens show padding.
    """

    tile_rows: int
    tile_columns: int
    rows: int  # of tokens, in each tile
    columns: int  # of tokens, in each tile
    breaks: int  # 1 if each row of a tile ends with one more token, which shows nothing; else 0
    left: float
    top: float
    right: float
    bottom: float

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.tile_rows * self.tile_columns * self.rows * (self.columns + self.breaks)

    @property
    def cell(self) -> tuple[float, float]:
        """Width and height of a token, in shares of the picture's."""
        width, height = self.right - self.left, self.bottom - self.top
        return width / (self.tile_columns * self.columns), height / (self.tile_rows * self.rows)


@dataclass(frozen=True)
class TileLayout:
    """The image tokens of one picture, block after block.

    Raises ValueError for no block, or one without an area.
    """

    blocks: tuple[TileBlock, ...]

    def __post_init__(self) -> None:
        if not self.blocks or not all(min(block.cell) > 0 for block in self.blocks):
            raise ValueError(f"blocks {self.blocks}: expected at least one, each with an area")

    @classmethod
    def of(cls, blocks: Iterable[Sequence[float]]) -> Self:
        """Return the layout of these numbers, those of a `TileBlock` each, as a file or a message has them."""
        return cls(tuple(TileBlock(*map(int, block[:_COUNTS]), *block[_COUNTS:]) for block in blocks))

    @property
    def tokens(self) -> int:
        """Number of image tokens."""
        return sum(block.tokens for block in self.blocks)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens; one row where they are no single grid."""
        block = self.blocks[0]
        is_grid = len(self.blocks) == 1 and block.tile_rows * block.tile_columns == 1 and not block.breaks
        return (block.rows, block.columns) if is_grid else (1, self.tokens)

    def indices(self) -> list[Tensor]:
        """Return each block's tokens as they lie in the picture, [rows, columns], int64."""
        start, result = 0, []
        for block in self.blocks:
            tiles = torch.arange(start, start + block.tokens).view(
                block.tile_rows, block.tile_columns, block.rows, block.columns + block.breaks
            )
            result.append(tiles[..., : block.columns].transpose(1, 2).flatten(2).flatten(0, 1))
            start += block.tokens
        return result

    def tiles(self) -> Tensor:
        """Return the number of each token's tile, [tokens], int64, from 0 on."""
        counts = [block.rows * (block.columns + block.breaks) for block in self.blocks]
        tiles = [block.tile_rows * block.tile_columns for block in self.blocks]
        sizes = [count for count, number in zip(counts, tiles, strict=True) for _ in range(number)]
        return torch.repeat_interleave(torch.tensor(sizes))

    def boxes(self) -> Tensor:
        """Return left, top, right and bottom of each token, [tokens, 4], float64, in shares of the picture.

        A token that shows nothing has an empty box, of zeros.
        """
        boxes = torch.zeros(self.tokens, 4, dtype=torch.float64)
        for block, indices in zip(self.blocks, self.indices(), strict=True):
            width, height = block.cell
            rows, columns = (torch.arange(size, dtype=torch.float64) for size in indices.shape)
            top, left = torch.meshgrid(block.top + rows * height, block.left + columns * width, indexing="ij")
            boxes[indices] = torch.stack([left, top, left + width, top + height], dim=-1)
        return boxes
