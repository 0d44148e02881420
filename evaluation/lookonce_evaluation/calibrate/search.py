"""The search: candidates by successive halving on one half of the images, then the winners, once, on the other half.

The best of many on few images looks better than it is, so nothing is promised of the images that chose: at each
retention the winner is measured again on images that no choice has seen. These few are tried from the largest
retention down, until one is not shown to be within the tolerance, so that together they are wrong as seldom as one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, get_args

from lookonce_evaluation.calibrate.shares import Compared, Shares
from lookonce_evaluation.calibrate.tasks import key
from lookonce_evaluation.methods import Context
from lookonce_evaluation.runs import JSON
from lookonce_evaluation.tables import header, line
from lookonce_pruning import ScoreQueries, middle_layers

ROWS: tuple[ScoreQueries, ...] = get_args(ScoreQueries)
SELECTIONS = ("coverage", "coverage:reach=0.3,strength=1", "attention", "uniform")
# In quarters of the depth; the second quarter is `middle_layers`.
_WINDOWS = ((1, 2), (0, 4), (1, 3), (0, 1), (2, 3), (3, 4), (0, 2), (2, 4))
_RUNGS = (0.1, 0.4, 1.0)  # of the images that choose, where a rung ends
_SURVIVORS = 4  # one of so many goes on

Measure = Callable[[str, Sequence[str], Sequence[Context]], Sequence[JSON]]
"""From a stage's name, images and methods to the images' records, in their order."""


def windows(num_layers: int) -> list[tuple[int, int]]:
    """List the second quarter of the layers first, then all of them, and the other quarters and halves, each once."""
    middle = middle_layers(num_layers)
    found = [(middle.start, middle.stop)]
    found += [(first * num_layers // 4, end * num_layers // 4) for first, end in _WINDOWS]
    return [window for window in dict.fromkeys(found) if window[0] < window[1]]


def candidates(
    num_layers: int,
    selections: Sequence[str] = SELECTIONS,
    rows: Sequence[ScoreQueries] = ROWS,
    among: Sequence[tuple[int, int]] | None = None,
) -> list[Context]:
    """List every selection with all rows and windows that it can use, the server's defaults first.

    Args:
        num_layers: of the model.
        selections: to choose from.
        rows: to choose from.
        among: the windows to choose from; those by depth unless given.

    Returns:
        They keep everything: `at` makes them keep less.
    """
    found = []
    for selection in selections:
        first = 1 if needs_no_scores(selection) else None
        per_layer = selection.partition(":")[0] == "attention-per-layer"
        for source in rows[:first]:
            for window in [(0, num_layers)] if per_layer else (among or windows(num_layers))[:first]:
                found.append(Context(f"{window[0]}-{window[1]}/{source}/{selection}", 1.0, selection, window, source))
    return found


def needs_no_scores(selection: str) -> bool:
    """Tell whether it is a baseline that attention has to beat."""
    return selection.partition(":")[0] in ("uniform", "random")


class Size(NamedTuple):
    """What a question stands on; means."""

    tokens: float
    bytes: int  # of keys and values


class Verified(NamedTuple):
    """A retention's winner, on images that did not choose it."""

    method: Context
    compared: Compared
    size: Size  # of a context
    full: Size  # of the full pass
    shown: bool  # within the tolerance, as are all larger retentions


class Searched(NamedTuple):
    """What came out on the images that chose."""

    shares: Shares  # of the methods that came to the end
    methods: list[Context]  # these, the best first in each retention

    def best(self) -> list[Context]:
        """List the best of each retention, the largest retention first."""
        found: dict[float, Context] = {}
        for method in self.methods:
            found.setdefault(method.retention, method)
        return [found[retention] for retention in sorted(found, reverse=True)]

    def table(self) -> str:
        """Write the candidates that came to the end, the best first in each retention."""
        lines = [header("kept", "window", "rows", "selection", "right", "KL of first tokens")]
        for method in self.methods:
            share, distance = self.shares.share(key(method)), self.shares.distance(key(method))
            cells = [f"{method.retention:.3g}", "{}-{}".format(*method.window), method.rows, f"`{method.selection}`"]
            lines.append(line([*cells, f"{share:.2%}", f"{distance:.4f}"]))
        return "\n".join(lines)


def search(tried: Sequence[Context], retentions: Sequence[float], names: Sequence[str], measure: Measure) -> Searched:
    """Halve successively: many candidates on a few images, then the better quarter on more of them.

    The first candidate, which is the default, and those that need no scores go on whatever they reach, as what the
    winner has to beat.

    Args:
        tried: candidates to choose from.
        retentions: at each of which one wins.
        names: of the images that choose.
        measure: measures them.
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
    return Searched(shares, [method for of_share in left.values() for method in of_share])


def _survivors(ranked: Sequence[Context], default: str) -> list[Context]:
    best = ranked[: math.ceil(len(ranked) / _SURVIVORS)]
    return [m for m in ranked if m in best or m.name == default or needs_no_scores(m.selection)]


def verify(methods: Sequence[Context], names: Sequence[str], tolerance: float, measure: Measure) -> list[Verified]:
    """Measure the winners on images that did not choose them.

    Args:
        methods: the largest retention first.
        names: of these images.
        tolerance: share of the full pass that may be lost.
        measure: measures them.
    """
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
    lines = [header(*columns)]
    for winner in verified:
        compared, size = winner.compared, winner.size
        cells = [f"{winner.method.retention:.3g}", f"`{winner.method.name}`"]
        cells += [f"{size.tokens:.0f}", f"{size.bytes / 1024:.0f}"]
        cells += [f"{compared.share:.2%}", f"{compared.kept:.2%}", f"{compared.at_least:.2%}"]
        lines.append(line([*cells, "yes" if winner.shown else "not shown"]))
    return "\n".join(lines)


def not_shown(winner: Verified, tolerance: float) -> str:
    """Say in one line why a winner is not within the tolerance."""
    compared = winner.compared
    least = f"{compared.kept:.2%} of the full pass, at least {compared.at_least:.2%}, on {compared.images} images"
    needed = compared.images_needed(tolerance)
    if needed is None:
        return f"{key(winner.method)} keeps {least}: less than {1 - tolerance:.2%}"
    if compared.is_shown(tolerance):
        return f"{key(winner.method)} keeps {least}, but a larger retention was not shown to be within {tolerance:g}"
    told = f"to show that it is {1 - tolerance:.2%}, about --count {2 * needed} is needed"
    return f"{key(winner.method)} keeps {least}: {told}"
