"""The errors of this package.

PruningError
├── UnknownSelectionError   a selection's name that is not in the registry
├── UnsupportedModelError   a model that cannot be served by re-prompting
└── RecordingError          a describe pass whose attention was not captured whole

A value out of its range (a retention of 1.5, a window beyond the last layer) is a plain ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable


class PruningError(Exception):
    """Base of every error that only this package raises."""


class UnknownSelectionError(PruningError):
    """No selection has this name: `name` was asked for, `valid` exist."""

    def __init__(self, name: str, valid: Iterable[str]) -> None:
        self.name = name
        self.valid = tuple(valid)
        super().__init__(f"unknown selection {name!r}; valid: {', '.join(self.valid)}")


class UnsupportedModelError(PruningError):
    """The model's attention or positions do not allow its context to be cut."""


class RecordingError(PruningError):
    """The recorded rows or layers are incomplete: no score can be trusted."""
