"""A server under load while its store is killed again and again: `make soak`.

A real `lookonce serve` with the bundled model keeps contexts in a real redis-server, which is killed (SIGKILL) and
started again every half minute: with what it held or empty, at once or after some seconds. Meanwhile several threads
ask about new images and known ones, with pixels and by id, streaming and not, and list and delete contexts.

Every answer is compared with what a quiet server, which keeps contexts in memory, said about the same picture: the full
pass's answer, or that from the context, whichever way the reply says it came. Exit status 1 if an answer was wrong or a
request lost. A request by id only, a list or a delete may be refused while the store is away, or has lost the context.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from lookonce_evaluation.bench import command
from lookonce_evaluation.bench.fixtures import LookonceServer, RedisServer
from lookonce_evaluation.bench.soak_load import (
    LoadThread,
    Picture,
    Reply,
    Shared,
    StoreCondition,
    by_kind,
    chance_of_passing,
    figures,
    record_answers,
    table,
)
from lookonce_server.settings import Settings

NOTICED_SECONDS = 3.0  # after which servers use a store again that has come back
SHOWN = 20  # of what is wrong, lost or unexplained
QUICK = {"minutes": 0.1, "restart_every": 1.5, "away": 1.0, "pictures": 3, "questions": 2}


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
        condition: of the store; kept here.
        report: is called with each restart, when it is over.
    """

    def __init__(
        self,
        redis: RedisServer,
        *,
        every: float,
        away: float,
        condition: StoreCondition,
        report: Callable[[Restart], None],
    ) -> None:
        self._redis = redis
        self._every = every
        self._away = away
        self._condition = condition
        self._report = report
        self.restarts = 0

    def run_until(self, end: float) -> None:
        """Go on until that time, in time.monotonic's seconds; no restart begins in the last moments before it."""
        for restart in itertools.cycle(RESTARTS):
            left = end - time.monotonic()
            if left < self._every + self._away + NOTICED_SECONDS:
                time.sleep(max(0.0, left))
                return
            time.sleep(self._every)
            self._restart(restart)

    def _restart(self, restart: Restart) -> None:
        self._condition.disturb()
        self._redis.kill()
        if restart.empty:
            self._redis.forget()
        if restart.away:
            time.sleep(self._away)
        self._redis.start()
        self._condition.restore(NOTICED_SECONDS)
        self.restarts += 1
        self._report(restart)


class SoakResult(NamedTuple):
    """What came of a run."""

    replies: list[Reply]
    facts: dict[str, Any]  # by name, as they are reported

    @property
    def bad(self) -> list[Reply]:
        """The replies that must not be."""
        return [reply for reply in self.replies if reply.outcome in ("wrong", "lost")]

    @property
    def is_good(self) -> bool:
        """Whether all was answered, and rightly."""
        return bool(self.replies) and not self.bad


def soak(arguments: argparse.Namespace, pictures: list[Picture]) -> SoakResult:
    """Run the load against a server whose store fails."""
    with RedisServer(persistent=True) as redis:
        hot = f"?hot_bytes={arguments.hot_bytes}" if arguments.hot_bytes else ""
        with LookonceServer("--store", f"{redis.url}{hot}", "--precision", arguments.precision) as server:
            shared = Shared(server.url, pictures)
            restarter = Restarter(
                redis,
                every=arguments.restart_every,
                away=arguments.away,
                condition=shared.condition,
                report=lambda restart: _print_progress(shared.replies, restart),
            )
            before = server.resident_bytes()
            end = time.monotonic() + 60 * arguments.minutes
            run_under_load(shared, arguments.threads, lambda: restarter.run_until(end))
            facts = {
                "restarts": restarter.restarts,
                "server's memory, MiB, before and after": [size >> 20 for size in (before, server.resident_bytes())],
                "errors in the server's log": server.log().count(" ERROR "),
                "another picture's answer would pass": f"{chance_of_passing(pictures):.1%}",
            }
    return SoakResult(shared.replies, facts)


def run_under_load(shared: Shared, threads: int, work: Callable[[], None]) -> None:
    """Do `work` while threads ask; an error in any of them is raised here."""
    with ThreadPoolExecutor(threads) as pool:
        running: list[Future[None]] = [pool.submit(LoadThread(shared, seed).run) for seed in range(threads)]
        try:
            work()
        finally:
            shared.stop.set()
    for thread in running:
        thread.result()


def _print_progress(replies: list[Reply], restart: Restart) -> None:
    counts = figures(list(replies))
    how = f"{'empty' if restart.empty else 'with what it held'}, {'after a while' if restart.away else 'at once'}"
    so_far = ", ".join(f"{counts[name]} {name}" for name in ("requests", "wrong", "lost", "refused clearly"))
    print(f"soak: the store came back {how}: {so_far}", file=sys.stderr, flush=True)


def expected_answers(arguments: argparse.Namespace) -> list[Picture]:
    """Record what is right, with a server of its own whose contexts stay in memory."""
    with LookonceServer("--store", "memory://", "--precision", arguments.precision) as quiet:
        return record_answers(quiet.url, arguments.pictures, arguments.questions)


def print_report(result: SoakResult) -> None:
    """Print the table, the facts, and the first of what was wrong, lost or refused without an excuse."""
    print("\n".join([*table(result.replies), ""]))
    for name, fact in result.facts.items():
        print(f"{name}: {fact}")
    for reply in result.bad[:SHOWN]:
        print(f"{reply.outcome}: {reply.kind}: {reply.detail}")
    for reply in [reply for reply in result.replies if reply.unexplained][:SHOWN]:
        print(f"refused, unexplained: {reply.kind}: {reply.detail}")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = command.parser("soak", __doc__, quick="some seconds with one restart")
    parser.add_argument("--minutes", type=float, default=10.0, help="of load [%(default)s]")
    parser.add_argument("--restart-every", type=float, default=30.0, help="seconds between restarts [%(default)s]")
    parser.add_argument("--away", type=float, default=4.0, help="seconds it is away, every other time [%(default)s]")
    parser.add_argument("--threads", type=int, default=4, help="that ask at once [%(default)s]")
    parser.add_argument("--hot-bytes", help="of a memory tier before Redis, as in 64MiB; default: no such tier")
    parser.add_argument("--precision", default=Settings().precision, help="in which contexts are stored [%(default)s]")
    parser.add_argument("--pictures", type=int, default=16, help="different ones [%(default)s]")
    parser.add_argument("--questions", type=int, default=3, help="about each picture [%(default)s]")
    if parser.parse_args(args).quick:
        parser.set_defaults(**QUICK)
    arguments = parser.parse_args(args)
    result = soak(arguments, expected_answers(arguments))
    print_report(result)
    kinds = by_kind(result.replies)
    command.write_json(arguments.json, {"all": figures(result.replies), "kinds": kinds, **result.facts})
    return 0 if result.is_good else 1


if __name__ == "__main__":
    command.run(main)
