"""Ask three replicas in turn while one is killed, each is restarted, and their Redis is: `make cluster`.

Real `lookonce serve` processes with the bundled model share contexts through a real Redis, behind HAProxy with the
configuration of deploy/compose and watched by Prometheus. Sessions of ten questions about a new image each are asked
by openai's client: of one replica, of all of them, while one is killed (SIGKILL), while each in turn is stopped
(SIGTERM) and started again, and while Redis is killed and started again.

Every answer is compared with that of a quiet server. Exit status 1 if one was wrong or a question lost.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from lookonce_evaluation.bench import command
from lookonce_evaluation.bench.fixtures import (
    HaproxyServer,
    LookonceServer,
    PrometheusServer,
    RedisServer,
    free_port,
    wait_until,
)
from lookonce_evaluation.bench.load import Picture, chance_of_passing, record_answers
from lookonce_evaluation.bench.sessions import Asked, Load, ask_sessions
from lookonce_evaluation.tables import record_table

SHOWN = 20  # of what is wrong or lost
REDIS_AWAY_SECONDS = 3.0


class Plan(NamedTuple):
    """The size of a run."""

    replicas: int = 3
    sessions: int = 24  # of each phase
    questions: int = 10
    at_once: int = 6
    pictures: int = 8


QUICK = Plan(replicas=2, sessions=3, questions=4, at_once=3, pictures=2)


class Phase(NamedTuple):
    """What was asked under one circumstance."""

    name: str
    replicas: int
    asked: list[Asked]
    seconds: float
    hit_rate_by_prometheus: float | None

    @property
    def bad(self) -> list[Asked]:
        """The questions that were answered wrongly or not at all."""
        return [asked for asked in self.asked if asked.outcome != "right"]

    def row(self) -> dict[str, Any]:
        """Return the phase's row of the table."""
        outcomes = [asked.outcome for asked in self.asked]
        times = [asked.seconds for asked in self.asked]
        by_prometheus = self.hit_rate_by_prometheus
        return {
            "phase": self.name,
            "replicas": str(self.replicas),
            "questions": str(len(outcomes)),
            "wrong": str(outcomes.count("wrong")),
            "lost": str(outcomes.count("lost")),
            "asked again": str(sum(asked.asked_again for asked in self.asked)),
            "hits": f"{statistics.fmean(asked.hit for asked in self.asked):.1%}",
            "by Prometheus": "-" if by_prometheus is None else f"{by_prometheus:.1%}",
            "median": f"{statistics.median(times):.2f} s",
            "longest": f"{max(times):.2f} s",
        }


class Cluster:
    """Replicas, their Redis, their load balancer and Prometheus, while the `with` block runs.

    Args:
        replicas: their number.
        proxy: HAProxy's configuration.
    """

    def __init__(self, replicas: int, proxy: str) -> None:
        self._stack = ExitStack()
        self._proxy = proxy
        self.redis = RedisServer(
            persistent=True, arguments=("--maxmemory", "512mb", "--maxmemory-policy", "allkeys-lru")
        )
        store = f"{self.redis.url}?hot_bytes=64MiB"
        # A port of its own, so that the load balancer finds it again after a restart.
        self.servers = [LookonceServer("--port", str(free_port()), "--store", store) for _ in range(replicas)]

    def __enter__(self) -> "Cluster":
        with ExitStack() as stack:
            stack.enter_context(self.redis)
            for server in self.servers:
                stack.enter_context(server)
            urls = [server.url for server in self.servers]
            self.one = stack.enter_context(HaproxyServer(self._proxy, urls[:1]))
            self.all = stack.enter_context(HaproxyServer(self._proxy, urls))
            self.prometheus = stack.enter_context(PrometheusServer(urls))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def kill_one(self) -> None:
        """Kill a replica as a machine that fails would."""
        self.servers[-1].process.kill()
        self.servers[-1].process.wait()

    def start_dead(self) -> None:
        """Start a replica that was killed, and wait until it is asked."""
        self.servers[-1].stop()
        self.servers[-1].start()
        self._wait_for_all()

    def restart_each(self) -> None:
        """Stop and start one replica after another, as a rolling update does."""
        for server in self.servers:
            server.stop()
            server.start()
            self._wait_for_all()

    def restart_redis(self) -> None:
        """Kill Redis, and start it again with what it had written."""
        self.redis.kill()
        time.sleep(REDIS_AWAY_SECONDS)
        self.redis.start()

    def _wait_for_all(self) -> None:
        wait_until(lambda: self.all.servers_up() == len(self.servers), "all replicas are asked again", 60)


def run_phases(plan: Plan, pictures: list[Picture], proxy: str) -> list[Phase]:
    """Run the load under each circumstance."""
    load = Load(pictures, plan.sessions, plan.questions, plan.at_once)
    with Cluster(plan.replicas, proxy) as cluster:

        def phase(name: str, replicas: int, disturb: Callable[[], object] | None = None) -> Phase:
            url = cluster.one.url if replicas == 1 else cluster.all.url
            began = time.monotonic()
            asked = asyncio.run(ask_sessions(url, load, disturb))
            seconds = time.monotonic() - began
            result = Phase(name, replicas, asked, seconds, hit_rate(cluster.prometheus, seconds))
            print(f"cluster: {result.row()}", file=sys.stderr, flush=True)
            return result

        phases = [
            phase("undisturbed", 1),
            phase("undisturbed", plan.replicas),
            phase("one replica killed", plan.replicas, cluster.kill_one),
        ]
        cluster.start_dead()
        return [
            *phases,
            phase("rolling restart", plan.replicas, cluster.restart_each),
            phase("Redis killed and started", plan.replicas, cluster.restart_redis),
        ]


def hit_rate(prometheus: PrometheusServer, seconds: float) -> float | None:
    """Return the share of hits that Prometheus saw in the last seconds."""
    time.sleep(2.0)  # for the last scrape
    window = f"[{max(5, round(seconds) + 2)}s]"
    hits = f'sum(increase(lookonce_requests_total{{cache="hit"}}{window}))'
    return prometheus.value(f'{hits} / sum(increase(lookonce_requests_total{{cache=~"hit|miss"}}{window}))')


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = command.parser("cluster", __doc__, quick="two replicas, few sessions")
    default = Path("deploy/compose/haproxy.cfg")
    parser.add_argument("--proxy", type=Path, default=default, help="HAProxy's configuration [%(default)s]")
    parser.add_argument("--sessions", type=int, default=Plan().sessions, help="of each phase [%(default)s]")
    arguments = parser.parse_args(args)
    plan = QUICK if arguments.quick else Plan(sessions=arguments.sessions)
    with LookonceServer("--store", "memory://") as quiet:
        pictures = record_answers(quiet.url, plan.pictures, plan.questions)
    phases = run_phases(plan, pictures, arguments.proxy.read_text())
    print(record_table([phase.row() for phase in phases]))
    print(f"\nanother picture's answer would pass: {chance_of_passing(pictures):.1%}")
    bad = [asked for phase in phases for asked in phase.bad]
    for asked in bad[:SHOWN]:
        print(f"{asked.outcome}: {asked.detail}")
    command.write_json(arguments.json, {"phases": [phase.row() for phase in phases]})
    return 1 if bad else 0


if __name__ == "__main__":
    command.run(main)
