"""The selections, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lookonce_pruning.errors import UnknownSelectionError
from lookonce_pruning.selection.attention import Attention
from lookonce_pruning.selection.attention_per_layer import AttentionPerLayer
from lookonce_pruning.selection.base import Selection
from lookonce_pruning.selection.coverage import Coverage
from lookonce_pruning.selection.random import Random
from lookonce_pruning.selection.uniform import Uniform

__all__ = ["SELECTIONS", "Selection", "get_selection"]

SELECTIONS: dict[str, Callable[..., Selection]] = {
    "attention": Attention,
    "attention-per-layer": AttentionPerLayer,
    "coverage": Coverage,
    "random": Random,
    "uniform": Uniform,
}


def get_selection(name: str, **options: Any) -> Selection:
    """The selection called `name`, built with `options` (its class documents them).

    Raises UnknownSelectionError for a name that is not in SELECTIONS.
    """
    if name not in SELECTIONS:
        raise UnknownSelectionError(name, SELECTIONS)
    return SELECTIONS[name](**options)
