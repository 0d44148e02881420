"""Load a server while its store is killed again and again: `make soak`.

A real `lookonce serve` with the bundled model keeps contexts in a real redis-server, which is killed (SIGKILL) and
started again every half minute: with what it held or empty, at once or after some seconds. Meanwhile several threads
ask about new images and known ones, with pixels and by id, streaming and not, and list and delete contexts.

Every answer is compared with that of a quiet server, which keeps contexts in memory, about the same picture: the full
pass's answer, or that from the context, as the reply says. Exit status 1 if an answer was wrong or a request lost. A
request by id only, a list or a delete may be refused while the store is away, or has lost the context.
"""

import itertools
import math
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from lookonce_evaluation.bench import command
from lookonce_evaluation.bench.fixtures import LookonceServer, RedisServer
from lookonce_evaluation.bench.load import Load, Picture, Reply, by_kind, chance_of_passing, figures, record_answers
from lookonce_evaluation.tables import record_table

NOTICED_SECONDS = 3.0  # after which servers use a store again that has come back
SHOWN = 20  # of what is wrong, lost or unexplained
RESTARTS = ((True, True), (False, False), (False, True), (True, False))  # whether empty, whether away for a while


class Plan(NamedTuple):
    """The length of a run."""

    minutes: float = 10.0
    restart_every: float = 30.0  # seconds
    away: float = 4.0  # seconds, every other time
    pictures: int = 16
    questions: int = 3  # about each picture


QUICK = Plan(minutes=0.1, restart_every=1.5, away=1.0, pictures=3, questions=2)


class SoakResult(NamedTuple):
    """The replies of a run, and other facts by name."""

    replies: list[Reply]
    facts: dict[str, Any]

    @property
    def bad(self) -> list[Reply]:
        """The replies that must not be."""
        return [reply for reply in self.replies if reply.outcome in ("wrong", "lost")]

    @property
    def is_good(self) -> bool:
        """Whether all was answered, and rightly."""
        return bool(self.replies) and not self.bad


def soak(plan: Plan, pictures: list[Picture]) -> SoakResult:
    """Run the load against a server whose store fails."""
    with RedisServer(persistent=True) as redis, LookonceServer("--store", redis.url) as server:
        before = server.resident_bytes()
        with Load(server.url, pictures) as load:
            restarts = restart_store(redis, load, plan)
        facts = {
            "restarts": restarts,
            "server's memory, MiB, before and after": [size >> 20 for size in (before, server.resident_bytes())],
            "errors in the server's log": server.log().count(" ERROR "),
            "another picture's answer would pass": f"{chance_of_passing(pictures):.1%}",
        }
    return SoakResult(load.replies, facts)


def restart_store(redis: RedisServer, load: Load, plan: Plan) -> int:
    """Kill and start the store until the load is over; return how often.

    No restart begins in the last moments, so that the server is seen to use its store again.
    """
    end = time.monotonic() + 60 * plan.minutes
    for number, (empty, away) in enumerate(itertools.cycle(RESTARTS)):
        left = end - time.monotonic()
        if left < plan.restart_every + plan.away + NOTICED_SECONDS:
            time.sleep(max(0.0, left))
            break
        time.sleep(plan.restart_every)
        load.undisturbed_since = math.inf
        redis.kill()
        if empty:
            redis.forget()
        if away:
            time.sleep(plan.away)
        redis.start()
        load.undisturbed_since = time.monotonic() + NOTICED_SECONDS
        counts = figures(list(load.replies))
        progress = ", ".join(f"{counts[name]} {name}" for name in ("requests", "wrong", "lost", "refused clearly"))
        print(f"soak: restart {number + 1}, {empty=}, {away=}: {progress}", file=sys.stderr, flush=True)
    return number


def print_report(result: SoakResult) -> None:
    """Print the table, the facts, and the first replies that are at fault."""
    rows = [{"request": kind} | row for kind, row in by_kind(result.replies).items()]
    print(record_table(rows, ".0f") + "\n")
    for name, fact in result.facts.items():
        print(f"{name}: {fact}")
    unexplained = [reply for reply in result.replies if reply.unexplained]
    for reply in result.bad[:SHOWN] + unexplained[:SHOWN]:
        print(f"{reply.outcome}: {reply.kind}: {reply.detail}")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = command.parser("soak", __doc__, quick="some seconds with one restart")
    parser.add_argument("--minutes", type=float, default=Plan().minutes, help="of load [%(default)s]")
    arguments = parser.parse_args(args)
    plan = QUICK if arguments.quick else Plan(arguments.minutes)
    with LookonceServer("--store", "memory://") as quiet:
        pictures = record_answers(quiet.url, plan.pictures, plan.questions)
    result = soak(plan, pictures)
    print_report(result)
    command.write_json(arguments.json, {"kinds": by_kind(result.replies), **result.facts})
    return 0 if result.is_good else 1


if __name__ == "__main__":
    command.run(main)
