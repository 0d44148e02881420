"""The count of what came of the requests."""

import statistics
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from lookonce_evaluation.tables import header, line

Kind = Literal["new image", "known, pixels", "known, by id", "list", "delete"]
KINDS: tuple[Kind, ...] = ("new image", "known, pixels", "known, by id", "list", "delete")

Outcome = Literal["right", "wrong", "lost", "refused"]
"""Of a request:

- right: what was asked for, and an answer is the one that is right for the image by the way it came;
- wrong: an answer that is not;
- refused: 404 or 503, in the API's own words, where no pixels were sent that the server could have gone by;
- lost: anything else. An error in answer to pixels, a connection that breaks, a reply that is none.
"""

SHOWN = 20  # of what is wrong, lost or unexplained


class Reply(NamedTuple):
    """What came of one request."""

    kind: Kind
    outcome: Outcome
    seconds: float
    hit: bool = False
    degraded: bool = False  # a known image with its pixels, answered by the full pass
    unexplained: bool = False  # refused although the store had the context, and has been up ever since
    detail: str = ""


class Tally:
    """Replies, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replies: list[Reply] = []

    def add(self, reply: Reply) -> None:
        """Count one more."""
        with self._lock:
            self._replies.append(reply)

    def replies(self, kind: Kind | None = None) -> list[Reply]:
        """Those so far, of one kind or of all."""
        with self._lock:
            return [reply for reply in self._replies if kind in (None, reply.kind)]

    def bad(self) -> list[Reply]:
        """Those that must not be."""
        return [reply for reply in self.replies() if reply.outcome in ("wrong", "lost")]

    def unexplained(self) -> list[Reply]:
        """Refusals that nothing excuses."""
        return [reply for reply in self.replies() if reply.unexplained]


COLUMNS: dict[str, Callable[[Sequence[Reply]], int]] = {
    "requests": len,
    "answers": lambda replies: sum(reply.outcome in ("right", "wrong") for reply in replies),
    "wrong": lambda replies: sum(reply.outcome == "wrong" for reply in replies),
    "lost": lambda replies: sum(reply.outcome == "lost" for reply in replies),
    "refused clearly": lambda replies: sum(reply.outcome == "refused" for reply in replies),
    "unexplained": lambda replies: sum(reply.unexplained for reply in replies),
    "hits": lambda replies: sum(reply.hit for reply in replies),
    "degraded": lambda replies: sum(reply.degraded for reply in replies),
}
PERCENTILES = (50, 99)
HEADER = header("request", *COLUMNS, *(f"p{p}, ms" for p in PERCENTILES), "longest, ms")


def figures(replies: Sequence[Reply]) -> dict[str, Any]:
    """The columns of some replies; times in milliseconds, of those that got what they asked for."""
    found: dict[str, Any] = {name: count(replies) for name, count in COLUMNS.items()}
    times = sorted(1000 * reply.seconds for reply in replies if reply.outcome == "right")
    for p in PERCENTILES:
        found[f"p{p}_ms"] = _percentile(times, p)
    return found | {"longest_ms": times[-1] if times else None}


def table(tally: Tally) -> list[str]:
    """The lines of the table: each kind, and all together."""
    rows = {kind: tally.replies(kind) for kind in KINDS} | {"all": tally.replies()}
    return [HEADER, *(_line(name, figures(replies)) for name, replies in rows.items())]


def _line(name: str, found: dict[str, Any]) -> str:
    cells = ("-" if figure is None else f"{figure:.0f}" for figure in found.values())
    return line((name, *cells))


def _percentile(times: Sequence[float], p: int) -> float | None:
    if len(times) < 2:
        return times[0] if times else None
    return statistics.quantiles(times, n=100, method="inclusive")[p - 1]
