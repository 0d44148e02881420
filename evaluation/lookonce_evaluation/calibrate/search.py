"""The search: successive halving on one half of the images, verified on the other.

The best of many on few images looks better than it is, so nothing is promised of the images that chose: at each
retention the winner is measured again on images that no choice has seen. These few are tried from the largest
retention down, until one is not shown to be within the tolerance, so that together they are wrong as seldom as one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from lookonce_evaluation.calibrate.tasks import key
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.methods import Context
from lookonce_evaluation.metrics.bootstrap import draws
from lookonce_evaluation.runs import JSON
from lookonce_evaluation.tables import table
from lookonce_pruning import ScoreQueries, middle_layers

ROWS: tuple[ScoreQueries, ...] = get_args(ScoreQueries)
SELECTIONS = ("coverage", "coverage:reach=0.3,strength=1", "attention", "uniform")
# In quarters of the depth; the second quarter is `middle_layers`.
_WINDOWS = ((1, 2), (0, 4), (1, 3), (0, 1), (2, 3), (3, 4), (0, 2), (2, 4))
_RUNGS = (0.1, 0.4, 1.0)  # of the images that choose, where a rung ends
_SURVIVORS = 4  # one of so many goes on
RESAMPLES = 4000
_LEVEL = 0.05  # one-sided

Measure = Callable[[str, Sequence[str], Sequence[Context]], Sequence[JSON]]
"""From a stage's name, images and methods to the images' records, in their order."""


class Compared(NamedTuple):
    """A method beside the full pass, on the same images."""

    full: float  # share that the full pass has right
    share: float  # that this method has
    at_least: float  # of the full pass's share: lower bound, one-sided 95%
    images: int

    @property
    def kept(self) -> float:
        """The share of the full pass's share."""
        return self.share / self.full

    def is_shown(self, tolerance: float) -> bool:
        """Tell whether at least `1 - tolerance` of the full pass is kept, surely enough."""
        return self.at_least >= 1 - tolerance

    def images_needed(self, tolerance: float) -> int | None:
        """Estimate the images needed to show it; None if less is kept."""
        margin = self.kept - (1 - tolerance)
        if margin <= 0:
            return None
        return math.ceil(self.images * ((self.kept - self.at_least) / margin) ** 2)


class Shares:
    """The right answers of several methods on the same images.

    The share is a macro mean: over the kinds of question, and in each over its categories. Answers about one image hang
    together, so intervals come of a paired bootstrap over images. Among those drawn is one image more, a mean one in
    which one answer less is right: few images that all went well would else be no reason to doubt.
    """

    def __init__(self, records: Sequence[JSON]) -> None:
        self._records = records
        self._columns = sorted({column for record in records for column in record["columns"]})
        kinds = [column.partition("/")[0] for column in self._columns]
        self._weights = torch.tensor([1 / (kinds.count(kind) * len(set(kinds))) for kind in kinds]).double()
        self._asked = self._counts(["1" * len(record["columns"]) for record in records])
        self._full = self._counts([record["full"] for record in records])

    def share(self, method: str) -> float:
        """Compute the share of the answers that were right."""
        return float(self._share(self._right(method).sum(0), self._asked.sum(0)))

    def distance(self, method: str) -> float:
        """Compute the mean KL divergence from the full pass."""
        return float(sum(record["ways"][method][1] for record in self._records) / len(self._records))

    def compared(self, method: str) -> Compared:
        """Compare a method with the full pass; EvaluationError if that has 0."""
        right = self._right(method)
        full = float(self._share(self._full.sum(0), self._asked.sum(0)))
        if not full:
            raise EvaluationError("the full pass has no answer right on these images: there is nothing to keep")
        mean = self._asked.mean(0)
        asked, wholly = (torch.cat((counts, counts.mean(0)[None])) for counts in (self._asked, self._full))
        ours = torch.cat((right, (right.mean(0) - mean / mean.sum())[None]))
        times = draws(len(asked), RESAMPLES).double()
        kept = self._share(times @ ours, times @ asked) / self._share(times @ wholly, times @ asked)
        return Compared(full, self.share(method), float(kept.nan_to_num(0.0).quantile(_LEVEL)), len(right))

    def _right(self, method: str) -> Tensor:
        return self._counts([record["ways"][method][0] for record in self._records])

    def _counts(self, bits: list[str]) -> Tensor:
        """Sum zeros and ones by column, `[images, columns]`."""
        counts = torch.zeros(len(bits), len(self._columns))
        for row, record, text in zip(counts, self._records, bits, strict=True):
            columns = torch.tensor([self._columns.index(column) for column in record["columns"]])
            row.index_add_(0, columns, torch.tensor([float(bit) for bit in text]))
        return counts.double()

    def _share(self, right: Tensor, asked: Tensor) -> Tensor:
        """Average `[..., columns]` over those that were asked."""
        weights = self._weights * (asked > 0)
        return (weights * right / asked.clamp_min(1e-9)).sum(-1) / weights.sum(-1)


def windows(num_layers: int) -> list[tuple[int, int]]:
    """List the middle quarter, all layers, and the other quarters and halves."""
    middle = middle_layers(num_layers)
    rest = [(first * num_layers // 4, end * num_layers // 4) for first, end in _WINDOWS]
    return [window for window in dict.fromkeys([(middle.start, middle.stop), *rest]) if window[0] < window[1]]


def candidates(
    num_layers: int,
    selections: Sequence[str] = SELECTIONS,
    rows: Sequence[ScoreQueries] = ROWS,
    among: Sequence[tuple[int, int]] | None = None,
) -> list[Context]:
    """List every selection with all rows and windows, the server's default first."""
    contexts = []
    for selection in selections:
        first = 1 if needs_no_scores(selection) else None
        per_layer = selection.partition(":")[0] == "attention-per-layer"
        for source in rows[:first]:
            for window in [(0, num_layers)] if per_layer else (among or windows(num_layers))[:first]:
                contexts.append(
                    Context(f"{window[0]}-{window[1]}/{source}/{selection}", 1.0, selection, window, source)
                )
    return contexts


def needs_no_scores(selection: str) -> bool:
    """Tell whether it is a baseline that attention has to beat."""
    return selection.partition(":")[0] in ("uniform", "random")


class Size(NamedTuple):
    """Means over images, in context before a question."""

    tokens: float
    bytes: int  # of keys and values


class Verified(NamedTuple):
    """A retention's winner, on images that did not choose it."""

    method: Context
    compared: Compared
    size: Size  # of a context
    full: Size  # of the full pass
    shown: bool  # within the tolerance, as are all larger retentions


def best(methods: Sequence[Context]) -> list[Context]:
    """List the first method of each retention, the largest retention first."""
    firsts = {method.retention: method for method in reversed(methods)}
    return [firsts[retention] for retention in sorted(firsts, reverse=True)]


def searched_table(shares: Shares, methods: Sequence[Context]) -> str:
    """Write the candidates that came to the end."""
    rows = []
    for method in methods:
        share, distance = shares.share(key(method)), shares.distance(key(method))
        cells = [f"{method.retention:.3g}", "{}-{}".format(*method.window), method.rows, f"`{method.selection}`"]
        rows.append([*cells, f"{share:.2%}", f"{distance:.4f}"])
    return table(("kept", "window", "rows", "selection", "right", "KL of first tokens"), rows)


def search(
    tried: Sequence[Context], retentions: Sequence[float], names: Sequence[str], measure: Measure
) -> tuple[Shares, list[Context]]:
    """Halve successively: many candidates on a few images, fewer on more.

    Returns:
        The shares of the candidates that came to the end, and these, the best first in each retention.

    The first candidate, which is the default, and those that need no scores go on whatever they reach, as what the
    winner has to beat.
    """
    left = {share: [replace(candidate, retention=share) for candidate in tried] for share in retentions}
    records: list[JSON] = []
    for rung, end in enumerate(sorted({math.ceil(share * len(names)) for share in _RUNGS}), 1):
        methods = [method for of_share in left.values() for method in of_share]
        records += measure(f"rung {rung}", names[len(records) : end], methods)
        shares = Shares(records)
        for retention, of_share in left.items():
            # By share, then by how near the first tokens are to the full pass's, then as they were given.
            ranked = sorted(of_share, key=lambda method: (-shares.share(key(method)), shares.distance(key(method))))
            left[retention] = ranked if end == len(names) else _survivors(ranked, tried[0].name)
    return shares, [method for of_share in left.values() for method in of_share]


def _survivors(ranked: Sequence[Context], default: str) -> list[Context]:
    better = ranked[: math.ceil(len(ranked) / _SURVIVORS)]
    return [m for m in ranked if m in better or m.name == default or needs_no_scores(m.selection)]


def verify(methods: Sequence[Context], names: Sequence[str], tolerance: float, measure: Measure) -> list[Verified]:
    """Measure the winners on images that did not choose them."""
    records = measure("verify", names, methods)
    shares, shown = Shares(records), True
    verified = []
    for method in methods:
        compared = shares.compared(key(method))
        shown = shown and compared.is_shown(tolerance)
        sizes = (_size(records, f"{method.retention:g}"), _size(records, "full"))
        verified.append(Verified(method, compared, *sizes, shown))
    return verified


def _size(records: Sequence[JSON], name: str) -> Size:
    tokens, count = (sum(record["sizes"][name][i] for record in records) / len(records) for i in (0, 1))
    return Size(round(tokens, 1), round(count))


def verified_table(verified: Sequence[Verified], tolerance: float) -> str:
    """Write the winners on the other images."""
    columns = ("kept", "winner", "tokens", "KiB", "right", "of the full pass", "at least", f"within {tolerance:g}")
    rows = []
    for winner in verified:
        compared, size = winner.compared, winner.size
        cells = [f"{winner.method.retention:.3g}", f"`{winner.method.name}`"]
        cells += [f"{size.tokens:.0f}", f"{size.bytes / 1024:.0f}"]
        cells += [f"{compared.share:.2%}", f"{compared.kept:.2%}", f"{compared.at_least:.2%}"]
        rows.append([*cells, "yes" if winner.shown else "not shown"])
    return table(columns, rows)


def not_shown(winner: Verified, tolerance: float) -> str:
    """Say in one line why a winner is not within the tolerance."""
    compared = winner.compared
    least = f"{compared.kept:.2%} of the full pass, at least {compared.at_least:.2%}, on {compared.images} images"
    needed = compared.images_needed(tolerance)
    if needed is None:
        return f"{key(winner.method)} keeps {least}: less than {1 - tolerance:.2%}"
    if compared.is_shown(tolerance):
        return f"{key(winner.method)} keeps {least}, but a larger retention was not shown to be within {tolerance:g}"
    remedy = f"to show that it is {1 - tolerance:.2%}, about --count {2 * needed} is needed"
    return f"{key(winner.method)} keeps {least}: {remedy}"
