"""The attention scores of a describe pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lookonce_pruning.errors import RecordingError
from lookonce_pruning.layout import TileLayout


@dataclass(frozen=True, eq=False)
class ImageScores:
    """The attention that each image token drew, per layer of the window.

    values: [layers in the window, image tokens], float32, on the CPU: means over recorded rows and heads, finite, >= 0
    layers: the indices of those layers, ascending
    grid: (rows, columns) of the image tokens in reading order, or (frames, rows, columns) of a video's; the product is
        the number of image tokens
    num_layers: how many layers with attention the model has
    layout: where the tokens of the picture, or of each frame, lie where they are no grid; None where the grid tells

    Raises ValueError when the shapes do not agree, RecordingError when a value is not finite.
    """

    values: Tensor
    layers: tuple[int, ...]
    grid: tuple[int, ...]
    num_layers: int
    layout: TileLayout | None = None

    def __post_init__(self) -> None:
        expected = (len(self.layers), math.prod(self.grid))
        if len(self.grid) not in (2, 3) or tuple(self.values.shape) != expected:
            raise ValueError(f"values {tuple(self.values.shape)}: expected {expected} from layers and grid")
        if self.layout is not None and self.layout.tokens * self.frames != self.tokens:
            raise ValueError(f"layout of {self.layout.tokens} tokens: expected {self.tokens // self.frames}")
        if not torch.isfinite(self.values).all():
            raise RecordingError("the scores hold a value that is not finite: the model overflowed")

    @property
    def tokens(self) -> int:
        """Number of image tokens."""
        return self.values.shape[1]

    @property
    def frames(self) -> int:
        """Number of a video's frames; 1 for an image."""
        return self.grid[0] if len(self.grid) == 3 else 1

    def within(self, window: range) -> ImageScores:
        """Return the scores of a smaller window.

        A recording of all layers thus serves every window.

        Raises ValueError for layers that the scores do not cover.
        """
        if missing := [layer for layer in window if layer not in self.layers]:
            raise ValueError(f"window {window}: layers {missing} were not recorded")
        rows = [self.layers.index(layer) for layer in window]
        return ImageScores(self.values[rows], tuple(window), self.grid, self.num_layers, self.layout)
