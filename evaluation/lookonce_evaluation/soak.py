"""A server under load while its store is killed again and again: `python -m lookonce_evaluation.soak` (`make soak`).

A real `lookonce serve` with the bundled model keeps contexts in a real redis-server, which is killed (SIGKILL) and
started again every half minute: with what it held or empty, at once or after some seconds. Meanwhile several threads
ask about new images and known ones, with pixels and by id, streaming and not, and list and delete contexts.

Every answer is compared with what a quiet server, which keeps contexts in memory, said about the same picture: the full
pass's answer, or that from the context, whichever way the reply says it came. Exit status 1 if an answer was wrong or a
request lost. A request by id only, a list or a delete may be refused while the store is away, or has lost the context.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from lookonce_evaluation.redis_process import RedisProcess
from lookonce_evaluation.server_process import ServerProcess
from lookonce_evaluation.soaking.load import Asker, Calm, Shared
from lookonce_evaluation.soaking.tally import KINDS, SHOWN, Tally, figures, table
from lookonce_evaluation.soaking.truth import Picture, alike, recorded
from lookonce_server.settings import Settings

PICTURES, QUESTIONS = 16, 3
NOTICED_SECONDS = 3.0  # after which servers use a store again that has come back
QUICK = {"minutes": 0.2, "restart_every": 6.0, "pictures": 4, "questions": 2}


class Restart(NamedTuple):
    """One way that the store can fail."""

    empty: bool  # it comes back without what it held
    away: bool  # for some seconds, not just as long as a start takes


RESTARTS = (Restart(True, True), Restart(False, False), Restart(False, True), Restart(True, False))


class Restarter:
    """Kills the store and starts it again.

    Args:
        redis: the store.
        every: seconds from one restart to the next.
        away: seconds that it is away, every other time.
        calm: told of it.
        report: told of each restart, when it is over.
    """

    def __init__(
        self, redis: RedisProcess, *, every: float, away: float, calm: Calm, report: Callable[[Restart], None]
    ) -> None:
        self._redis = redis
        self._every = every
        self._away = away
        self._calm = calm
        self._report = report
        self.restarts = 0

    def run_until(self, end: float) -> None:
        """Go on until that time, in time.monotonic's seconds; no restart begins in the last moments before it."""
        for restart in itertools.cycle(RESTARTS):
            left = end - time.monotonic()
            if left < self._every + self._away:
                time.sleep(max(0.0, left))
                return
            time.sleep(self._every)
            self._restart(restart)

    def _restart(self, restart: Restart) -> None:
        self._calm.end()
        self._redis.kill()
        if restart.empty:
            self._redis.forget()
        if restart.away:
            time.sleep(self._away)
        self._redis.start()
        self._calm.begin(NOTICED_SECONDS)
        self.restarts += 1
        self._report(restart)


class Soaked(NamedTuple):
    """What came of a run."""

    tally: Tally
    facts: dict[str, Any]  # by name, as they are reported

    @property
    def is_good(self) -> bool:
        """Whether all was answered, and rightly."""
        return bool(self.tally.replies()) and not self.tally.bad()


def soak(arguments: argparse.Namespace, pictures: list[Picture]) -> Soaked:
    """Run the load against a server whose store fails."""
    tally = Tally()
    with RedisProcess(persistent=True) as redis:
        hot = f"?hot_bytes={arguments.hot_bytes}" if arguments.hot_bytes else ""
        store = ("--store", f"{redis.url}/0{hot}", "--precision", arguments.precision)
        with ServerProcess(*store) as server:
            shared = Shared(server.url, pictures, tally)
            restarter = Restarter(
                redis,
                every=arguments.restart_every,
                away=arguments.away,
                calm=shared.calm,
                report=lambda restart: _progress(tally, restart),
            )
            before = server.resident_bytes()
            under_load(shared, arguments.threads, lambda: restarter.run_until(_end(arguments.minutes)))
            facts = {
                "restarts": restarter.restarts,
                "server's memory, MiB, before and after": [size >> 20 for size in (before, server.resident_bytes())],
                "errors in the server's log": server.log().count(" ERROR "),
            }
    return Soaked(tally, facts)


def under_load(shared: Shared, threads: int, work: Callable[[], None]) -> None:
    """Do `work` while the threads ask; an error in any of them is raised here."""
    askers = [Asker(shared, seed) for seed in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        asking: list[Future[None]] = [pool.submit(asker.run) for asker in askers]
        try:
            work()
        finally:
            shared.stop.set()
    for done in asking:
        done.result()


def _end(minutes: float) -> float:
    return time.monotonic() + 60 * minutes


def _progress(tally: Tally, restart: Restart) -> None:
    found = figures(tally.replies())
    how = f"{'empty' if restart.empty else 'with what it held'}, {'after a while' if restart.away else 'at once'}"
    counts = ", ".join(f"{found[name]} {name}" for name in ("requests", "wrong", "lost", "refused clearly"))
    print(f"soak: the store came back {how}: {counts}", file=sys.stderr, flush=True)


def truth(arguments: argparse.Namespace) -> list[Picture]:
    """What is right, by a server of its own whose contexts stay in memory."""
    with ServerProcess("--store", "memory://", "--precision", arguments.precision) as quiet:
        return recorded(quiet.url, arguments.pictures, arguments.questions)


def print_report(soaked: Soaked) -> None:
    """The table, the facts, and the first of what was wrong, lost or refused without an excuse."""
    print("\n".join([*table(soaked.tally), ""]))
    for name, fact in soaked.facts.items():
        print(f"{name}: {fact}")
    for reply in soaked.tally.bad()[:SHOWN]:
        print(f"{reply.outcome}: {reply.kind}: {reply.detail}")
    for reply in soaked.tally.unexplained()[:SHOWN]:
        print(f"refused, unexplained: {reply.kind}: {reply.detail}")


def report(soaked: Soaked) -> dict[str, Any]:
    """All figures."""
    kinds = {kind: figures(soaked.tally.replies(kind)) for kind in KINDS}
    return {"all": figures(soaked.tally.replies()), "kinds": kinds, **soaked.facts}


def options() -> argparse.ArgumentParser:
    """The command's."""
    parser = argparse.ArgumentParser(prog="python -m lookonce_evaluation.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of load [%(default)s]")
    parser.add_argument("--restart-every", type=float, default=30.0, help="seconds between restarts [%(default)s]")
    parser.add_argument("--away", type=float, default=4.0, help="seconds it is away, every other time [%(default)s]")
    parser.add_argument("--threads", type=int, default=4, help="that ask at once [%(default)s]")
    parser.add_argument("--hot-bytes", help="of a memory tier before Redis, as in 64MiB; default: no such tier")
    parser.add_argument("--precision", default=Settings().precision, help="in which contexts are stored [%(default)s]")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="different ones [%(default)s]")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="about each picture [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="a quarter of a minute with one restart: does it work?")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser


def main(given: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = options()
    if parser.parse_args(given).quick:
        parser.set_defaults(**QUICK)
    arguments = parser.parse_args(given)
    pictures = truth(arguments)
    soaked = soak(arguments, pictures)
    soaked.facts["another picture's answer would pass"] = f"{alike(pictures):.1%}"
    print_report(soaked)
    if arguments.json:
        arguments.json.write_text(json.dumps(report(soaked), indent=1) + "\n")
    return 0 if soaked.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
