"""The attention scores of a describe pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lookonce_pruning.errors import RecordingError


@dataclass(frozen=True, eq=False)
class ImageScores:
    """The attention that each image token drew, per layer of the window.

    values: [layers in the window, image tokens], float32, on the CPU: means over recorded rows and heads, finite, >= 0
    layers: the indices of those layers, ascending
    grid: (rows, columns) of the image tokens in reading order, or (frames, rows, columns) of a video's; the product is
        the number of image tokens
    num_layers: how many layers the model has

    Raises ValueError when the shapes do not agree, RecordingError when a value is not finite.
    """

    values: Tensor
    layers: tuple[int, ...]
    grid: tuple[int, ...]
    num_layers: int

    def __post_init__(self) -> None:
        expected = (len(self.layers), math.prod(self.grid))
        if len(self.grid) not in (2, 3) or tuple(self.values.shape) != expected:
            raise ValueError(f"values {tuple(self.values.shape)}: expected {expected} from layers and grid")
        if not torch.isfinite(self.values).all():
            raise RecordingError("the scores hold a value that is not finite: the model overflowed")

    @property
    def tokens(self) -> int:
        """Number of image tokens."""
        return self.values.shape[1]

    def within(self, window: range) -> ImageScores:
        """Return the scores of a smaller window.

        A recording of all layers thus serves every window.

        Raises ValueError for layers that the scores do not cover.
        """
        if missing := [layer for layer in window if layer not in self.layers]:
            raise ValueError(f"window {window}: layers {missing} were not recorded")
        rows = [self.layers.index(layer) for layer in window]
        return ImageScores(self.values[rows], tuple(window), self.grid, self.num_layers)
