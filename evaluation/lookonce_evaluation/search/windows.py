"""Whose attention is counted: the layers, the rows, and how they are joined. The selection is `coverage` throughout."""

from functools import partial

from torch import Tensor

from lookonce_evaluation.search.candidate import Candidate, Look, choosing, middle_half
from lookonce_pruning import ScoreQueries, get_selection


def candidates(num_layers: int) -> list[Candidate]:
    """Windows by eighths of the depth, then rows and means in the middle half of the layers."""
    eighths = [(2, 4), (2, 6), (2, 8), (0, 8), (3, 6), (3, 8), (4, 6), (4, 8), (5, 8), (6, 8)]
    cuts = dict.fromkeys((num_layers * first // 8, num_layers * end // 8) for first, end in eighths)
    windows = [range(first, end) for first, end in cuts if first < end]
    half = middle_half(num_layers)
    sources: tuple[ScoreQueries, ...] = ("query", "both")
    return [
        *(choosing("window", named(window), partial(cover, layers=window)) for window in windows),
        *(choosing("rows", f"{named(half)}, rows {rows}", partial(cover, layers=half, rows=rows)) for rows in sources),
        choosing("rows", f"{named(half)}, most of any row", partial(most, layers=half)),
        choosing("rows", f"{named(half)}, layers of equal weight", partial(equal, layers=half)),
    ]


def named(window: range) -> str:
    """A window as it is given on a command line."""
    return f"coverage, window {window.start}-{window.stop}"


def cover(look: Look, keep: int, *, layers: range, rows: ScoreQueries = "generated") -> Tensor:
    """The server's selection and scores."""
    return get_selection("coverage").select(look.scores(layers, rows), keep)


def most(look: Look, keep: int, *, layers: range) -> Tensor:
    """The largest over the rows in place of their mean."""
    values = look.rows[layers.start : layers.stop].amax(dim=1)
    return get_selection("coverage").select(look.with_values(values, layers), keep)


def equal(look: Look, keep: int, *, layers: range) -> Tensor:
    """Each layer's scores add up to one, so that none outweighs the others."""
    values = look.scores(layers).values
    return get_selection("coverage").select(look.with_values(values / values.sum(1, keepdim=True), layers), keep)
