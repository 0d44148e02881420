"""The selections, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from lookonce_pruning.errors import UnknownSelectionError
from lookonce_pruning.selection.attention import Attention
from lookonce_pruning.selection.attention_per_layer import AttentionPerLayer
from lookonce_pruning.selection.base import Selection
from lookonce_pruning.selection.coverage import Coverage
from lookonce_pruning.selection.hybrid import AttentionRandom, AttentionUniform
from lookonce_pruning.selection.random import Random
from lookonce_pruning.selection.uniform import Uniform

__all__ = ["SELECTIONS", "Selection", "get_selection"]

SELECTIONS: dict[str, Callable[..., Selection]] = {
    "attention": Attention,
    "attention-per-layer": AttentionPerLayer,
    "attention-random": AttentionRandom,
    "attention-uniform": AttentionUniform,
    "coverage": Coverage,
    "random": Random,
    "uniform": Uniform,
}


def get_selection(spec: str, **options: Any) -> Selection:
    """Return the selection of a name, as "coverage", with options or without.

    Options are those of its class, as in "coverage:reach=0.3,strength=1".

    options: the same, given as arguments; they win

    Raises UnknownSelectionError for a name that is not in SELECTIONS, and ValueError for an option that the selection
    does not have or does not take.
    """
    name, _, text = spec.partition(":")
    if name not in SELECTIONS:
        raise UnknownSelectionError(name, SELECTIONS)
    options = {**_options(spec, text), **options}
    accepted = [*inspect.signature(SELECTIONS[name]).parameters]
    if unknown := [option for option in options if option not in accepted]:
        raise ValueError(f"selection {spec!r}: no option {unknown[0]!r}; {name} has {', '.join(accepted) or 'none'}")
    return SELECTIONS[name](**options)


def _options(spec: str, text: str) -> dict[str, int | float]:
    """Parse the numbers of "name=number,..."."""
    options: dict[str, int | float] = {}
    for pair in filter(None, text.split(",")):
        option, _, value = pair.partition("=")
        try:
            options[option] = int(value) if value.isdecimal() else float(value)
        except ValueError:
            raise ValueError(f"selection {spec!r}: expected {option}=number after the colon, not {pair!r}") from None
    return options
