"""The search: candidates by successive halving on one half of the images, then the winners, once, on the other half.

The best of many on few images looks better than it is, so nothing is promised of the images that chose: at each
retention the winner is measured again on images that no choice has seen. These few are tried from the largest
retention down, until one is not shown to be within the tolerance, so that together they are wrong as seldom as one.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lookonce_evaluation.calibrating.candidates import Candidate, Way, needs_no_scores
from lookonce_evaluation.calibrating.shares import Compared, Shares
from lookonce_evaluation.runs import JSON

_RUNGS = (0.1, 0.4, 1.0)  # of the images that choose, where a rung ends
_SURVIVORS = 4  # one of so many goes on

Measure = Callable[[str, Sequence[str], Sequence[Way]], Sequence[JSON]]
"""From a stage's name, images and ways to the images' records, in their order."""


class Size(NamedTuple):
    """What a question stands on; means."""

    tokens: float
    bytes: int  # of keys and values


class Verified(NamedTuple):
    """A retention's winner, on images that did not choose it."""

    way: Way
    compared: Compared
    size: Size  # of a context
    full: Size  # of the full pass
    shown: bool  # within the tolerance, as are all larger retentions


class Searched(NamedTuple):
    """What came out on the images that chose."""

    shares: Shares  # of the ways that came to the end
    ways: list[Way]  # these, the best first in each retention

    def best(self) -> list[Way]:
        """The best of each retention, the largest retention first."""
        found: dict[float, Way] = {}
        for way in self.ways:
            found.setdefault(way.retention, way)
        return [found[retention] for retention in sorted(found, reverse=True)]


def halves(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The images that choose, and those that verify."""
    middle = len(names) // 2
    return list(names[:middle]), list(names[middle:])


def search(
    candidates: Sequence[Candidate], retentions: Sequence[float], names: Sequence[str], measure: Measure
) -> Searched:
    """Successive halving: many candidates on a few images, then the better quarter on more of them.

    The first candidate, which is the default, and those that need no scores go on whatever they reach, as what the
    winner has to beat.

    Args:
        candidates: to choose from.
        retentions: at each of which one wins.
        names: of the images that choose.
        measure: measures them.
    """
    left = {retention: list(candidates) for retention in retentions}
    records: list[JSON] = []
    ends = sorted({math.ceil(share * len(names)) for share in _RUNGS})
    for rung, end in enumerate(ends):
        ways = [Way(candidate, retention) for retention in retentions for candidate in left[retention]]
        records += measure(f"rung {rung + 1}", names[len(records) : end], ways)
        shares = Shares(records)
        for retention in retentions:
            left[retention] = _ranked(left[retention], retention, shares)
            if end < len(names):
                left[retention] = _survivors(left[retention], candidates[0])
    return Searched(shares, [Way(candidate, retention) for retention in retentions for candidate in left[retention]])


def verify(ways: Sequence[Way], names: Sequence[str], tolerance: float, measure: Measure) -> list[Verified]:
    """Measure the winners on images that did not choose them.

    Args:
        ways: the largest retention first.
        names: of these images.
        tolerance: share of the full pass that may be lost.
        measure: measures them.
    """
    records = measure("verify", names, ways)
    shares = Shares(records)
    found: list[Verified] = []
    shown = True
    for way in ways:
        compared = shares.compared(str(way))
        shown = shown and compared.is_shown(tolerance)
        found.append(Verified(way, compared, _size(records, f"{way.retention:g}"), _size(records, "full"), shown))
    return found


def _size(records: Sequence[JSON], name: str) -> Size:
    tokens, count = (sum(record["sizes"][name][i] for record in records) / len(records) for i in (0, 1))
    return Size(round(tokens, 1), round(count))


def _ranked(candidates: Sequence[Candidate], retention: float, shares: Shares) -> list[Candidate]:
    """The best first: by share, then by how near the first tokens are to the full pass's, then as they were given."""

    def rank(candidate: Candidate) -> tuple[float, float]:
        way = str(Way(candidate, retention))
        return -shares.share(way), shares.distance(way)

    return sorted(candidates, key=rank)


def _survivors(ranked: Sequence[Candidate], default: Candidate) -> list[Candidate]:
    count = math.ceil(len(ranked) / _SURVIVORS)
    return [
        candidate
        for i, candidate in enumerate(ranked)
        if i < count or candidate == default or needs_no_scores(candidate.selection)
    ]
