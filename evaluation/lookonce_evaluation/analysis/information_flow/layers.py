"""The sets of layers in which attention is knocked out."""

from typing import NamedTuple

from lookonce_pruning.window import middle_layers

PUBLISHED_WINDOW = 9
"""Layers of Zhang et al.'s sliding window, of models that have 32 or 40."""
_PUBLISHED_LAYERS = 32


class LayerSet(NamedTuple):
    """Some of a model's layers."""

    how: str  # "all", "from", "up to", "all but" or "window"
    at: int  # the first layer; of "up to" the last one, of "all but" the first left alone, of "window" the centre
    layers: tuple[int, ...]  # indices, ascending

    def __str__(self) -> str:
        return "all" if self.how == "all" else f"{self.how} {self.at}"


def default_window(num_layers: int) -> int:
    """The published 9 layers from 18 layers on, else the odd number nearest to the same share of the depth."""
    if num_layers >= 2 * PUBLISHED_WINDOW:
        return PUBLISHED_WINDOW
    return max(1, 2 * round((num_layers * PUBLISHED_WINDOW / _PUBLISHED_LAYERS - 1) / 2) + 1)


def default_step(num_layers: int) -> int:
    """Every layer of models of up to 31, and at most about thirty places of deeper ones."""
    return max(1, num_layers // 16)


def windows(num_layers: int, width: int, step: int = 1) -> list[LayerSet]:
    """A window that slides over the layers, by its centre; cut off at both ends, as Zhang et al. publish it.

    Args:
        num_layers: of the model.
        width: layers of the window; an even one reaches one layer further down than up.
        step: layers from one centre to the next.
    """
    spans = [
        (at, range(max(0, at - width // 2), min(num_layers, at + (width + 1) // 2)))
        for at in range(0, num_layers, step)
    ]
    return [LayerSet("window", at, tuple(span)) for at, span in spans]


def layer_sets(num_layers: int, width: int, step: int = 1) -> list[LayerSet]:
    """All layers; from each on; up to each; all but each quarter of the depth; the sliding windows.

    Args:
        num_layers: of the model.
        width: layers of the sliding window.
        step: layers from one place to the next.
    """
    everything = tuple(range(num_layers))
    open_width = len(middle_layers(num_layers))
    sets = [LayerSet("all", 0, everything)]
    sets += [LayerSet("from", at, everything[at:]) for at in range(step, num_layers, step)]
    sets += [LayerSet("up to", at, everything[: at + 1]) for at in range(0, num_layers - 1, step)]
    sets += [
        LayerSet("all but", at, everything[:at] + everything[at + open_width :])
        for at in range(0, num_layers - open_width + 1, step)
    ]
    return sets + windows(num_layers, width, step)
