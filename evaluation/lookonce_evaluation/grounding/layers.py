"""Bands of layers, over which attention is averaged before it is measured."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Band(NamedTuple):
    """Neighbouring layers."""

    name: str
    layers: range

    @property
    def label(self) -> str:
        """As in "early (0-2)": both ends are in it."""
        first, last = self.layers[0], self.layers[-1]
        return f"{self.name} ({first}-{last})" if first != last else f"{self.name} ({first})"


def bands_of(num_layers: int, window: range) -> list[Band]:
    """The thirds of the depth, those that hold a layer, and the window whose attention the server scores by."""
    edges = [round(i * num_layers / 3) for i in range(4)]
    thirds = zip(("early", "middle", "late"), pairwise(edges), strict=True)
    return [Band(name, range(*ends)) for name, ends in thirds if ends[0] < ends[1]] + [Band("scored", window)]


def with_bands(maps: Tensor, bands: list[Band]) -> Tensor:
    """Maps `[layers, image tokens]`, and after them the mean of each band's: `[layers + bands, image tokens]`."""
    means = [maps[band.layers.start : band.layers.stop].mean(0) for band in bands]
    return torch.cat([maps, torch.stack(means)])
