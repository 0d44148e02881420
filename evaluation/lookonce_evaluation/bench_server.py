"""What the HTTP server adds to an answer: `python -m lookonce_evaluation.bench_server` (`make bench-server`).

Every question is about a context that is known, given by its id. It is asked in four ways:

- direct: the server's sessions and engine, called in the process, without HTTP;
- server: the app that `lookonce serve` runs, on the same sessions and engine, under uvicorn in the same process;
- bare uvicorn: an app under uvicorn that answers by heart, as many bytes and events: what HTTP and the client cost;
- lookonce serve: a server process of its own, with its own engine, and its access log.

The client is a bare socket on the same event loop: no client's library is measured. `none` as the model is an engine
that has its answers at once: what is left is the server. One run asks in all ways in turn, round by round, each round
in an order of its own, so that what else the machine does falls on all alike. Differences and ratios are to `direct`
of the same round, and their medians are given with half of the quartiles' distance; p99 is of all rounds' answers.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lookonce_evaluation.benching import Spread
from lookonce_evaluation.overhead.ways import BARE, DIRECT, MODEL, NONE, PROCESS, SERVER, Ask, Load, Way, opened
from lookonce_evaluation.tables import header, line

LOADS = tuple(itertools.starmap(Load, itertools.product((NONE, MODEL), (1, 8), (False, True), (1, 32))))
_LEFT_OUT = {MODEL: (BARE,), NONE: (PROCESS,)}  # what no model changes, and what has no other
HEADER = header(
    *("model", "tokens", "streamed", "at once"),
    *("direct, p50", "p99", "server, p50", "p99", "added at p50", "of direct", "bare uvicorn, p50", "p99"),
    *("lookonce serve, p50", "p99"),
)


@dataclass
class Cell:
    """A load in one way: milliseconds of its answers, by round."""

    load: Load
    way: str
    rounds: list[list[float]] = field(default_factory=list)

    @property
    def medians(self) -> list[float]:
        """Of the rounds."""
        return [statistics.median(one) for one in self.rounds]

    @property
    def p99(self) -> float:
        """Of all answers."""
        return statistics.quantiles(itertools.chain(*self.rounds), n=100, method="inclusive")[-1]


async def asked(asks: Sequence[Ask], each: int) -> list[float]:
    """Milliseconds of every answer to those who ask at once, each one question after the other."""
    found: list[float] = []

    async def one(ask: Ask) -> None:
        for _ in range(each):
            started = time.perf_counter()
            await ask()
            found.append(1000 * (time.perf_counter() - started))

    await asyncio.gather(*map(one, asks))
    return found


async def measured(rounds: int, answers: int) -> list[Cell]:
    """Every cell, `answers` answers a round at least."""
    async with opened() as ways:
        cells = [Cell(load, way) for load in LOADS for way in ways if way not in _LEFT_OUT[load.engine]]
        for number in range(rounds + 1):
            for cell in random.Random(number).sample(cells, len(cells)):
                found = await _round(ways[cell.way], cell.load, answers)
                if number:  # the first round warms up
                    cell.rounds.append(found)
    return cells


async def _round(way: Way, load: Load, answers: int) -> list[float]:
    async with way.asking(load) as asks:
        return await asked(asks, max(2, answers // load.concurrency))


def rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The figures."""
    direct = {cell.load: cell for cell in cells if cell.way == DIRECT}
    return [_row(cell, direct[cell.load]) for cell in cells]


def _row(cell: Cell, direct: Cell) -> dict[str, Any]:
    pairs = list(zip(cell.medians, direct.medians, strict=True))
    return {
        **cell.load._asdict(),
        "way": cell.way,
        "p50_ms": Spread.of(cell.medians)._asdict(),
        "added_ms": Spread.of(here - there for here, there in pairs)._asdict(),
        "of_direct": Spread.of(here / there for here, there in pairs)._asdict(),
        "p99_ms": cell.p99,
    }


def table_line(load: Load, found: Sequence[dict[str, Any]]) -> str:
    """A load's line of the table, of its rows, in milliseconds."""
    by_way = {row["way"]: row for row in found}
    cells = [load.engine, load.tokens, "yes" if load.stream else "no", load.concurrency]
    cells += _times(by_way[DIRECT]) + _times(by_way[SERVER])
    cells += [_spread(by_way[SERVER]["added_ms"]), f"{_spread(by_way[SERVER]['of_direct'])}x"]
    for way in (BARE, PROCESS):
        cells += _times(by_way[way]) if way in by_way else ["-", "-"]
    return line(cells)


def _times(row: dict[str, Any]) -> list[Any]:
    return [_spread(row["p50_ms"]), f"{row['p99_ms']:.2f}"]


def _spread(figure: dict[str, float]) -> str:
    return f"{figure['median']:.2f} ± {figure['quartiles'] / 2:.2f}"


def main(given: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m lookonce_evaluation.bench_server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=15, help="[%(default)s]")
    parser.add_argument("--answers", type=int, default=64, help="of a cell and round, at least [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="two rounds of a few answers: does it work?")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args(given)
    rounds, answers = (2, 2) if arguments.quick else (arguments.rounds, arguments.answers)
    found = rows(asyncio.run(measured(rounds, answers)))
    loads = [[row for row in found if Load(*(row[name] for name in Load._fields)) == load] for load in LOADS]
    print("\n".join([HEADER, *map(table_line, LOADS, loads)]))
    if arguments.json:
        machine = {"processor": platform.machine(), "cores": os.cpu_count()}
        arguments.json.write_text(json.dumps({"machine": machine, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
