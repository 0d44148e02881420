"""What a calibration chooses from: windows by depth, whose attention, and selections."""

from collections.abc import Sequence
from typing import NamedTuple, get_args

from lookonce_pruning import ScoreQueries, middle_layers

ROWS: tuple[ScoreQueries, ...] = get_args(ScoreQueries)
SELECTIONS = ("coverage", "coverage:reach=0.3,strength=1", "attention", "uniform")
RETENTIONS = (0.01, 0.02, 0.05, 0.1, 0.2)
# In quarters of the depth; the second quarter is `middle_layers`.
_WINDOWS = ((1, 2), (0, 4), (1, 3), (0, 1), (2, 3), (3, 4), (0, 2), (2, 4))


class Candidate(NamedTuple):
    """A way to choose the image tokens that stay."""

    window: tuple[int, int]  # half-open
    rows: ScoreQueries
    selection: str

    def __str__(self) -> str:
        return f"{self.window[0]}-{self.window[1]}/{self.rows}/{self.selection}"


class Way(NamedTuple):
    """A candidate, and how much stays."""

    candidate: Candidate
    retention: float

    def __str__(self) -> str:
        return f"{self.candidate}@{self.retention:g}"


def windows(num_layers: int) -> list[tuple[int, int]]:
    """The second quarter of the layers first, then all of them, and the other quarters and halves, each once."""
    middle = middle_layers(num_layers)
    found = [(middle.start, middle.stop)]
    found += [(first * num_layers // 4, end * num_layers // 4) for first, end in _WINDOWS]
    return [window for window in dict.fromkeys(found) if window[0] < window[1]]


def candidates(
    num_layers: int,
    selections: Sequence[str] = SELECTIONS,
    rows: Sequence[ScoreQueries] = ROWS,
    among: Sequence[tuple[int, int]] | None = None,
) -> list[Candidate]:
    """Every selection with all sources of rows and windows that it can use, the server's defaults first.

    Args:
        num_layers: of the model.
        selections: to choose from.
        rows: to choose from.
        among: the windows to choose from; those by depth unless given.
    """
    return [
        Candidate(window, source, selection)
        for selection in selections
        for source in (rows[:1] if needs_no_scores(selection) else rows)
        for window in _windows_of(selection, num_layers, among)
    ]


def needs_no_scores(selection: str) -> bool:
    """Whether it is a baseline that attention has to beat."""
    return _name(selection) in ("uniform", "random")


def _windows_of(selection: str, num_layers: int, among: Sequence[tuple[int, int]] | None) -> Sequence[tuple[int, int]]:
    if _name(selection) == "attention-per-layer":
        return [(0, num_layers)]
    return (among or windows(num_layers))[: 1 if needs_no_scores(selection) else None]


def _name(selection: str) -> str:
    return selection.partition(":")[0]
