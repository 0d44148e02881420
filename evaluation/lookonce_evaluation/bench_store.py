"""What keeping contexts costs, beside its least: `python -m lookonce_evaluation.bench_store` (`make bench-store`).

Contexts of some sizes in each precision, put to and got from each store, on a real redis-server over TCP and over a
unix socket. The limits are a copy of the encoded bytes in memory, and a bare SET or GET of them by redis-py's asyncio
client, which decodes nothing. MB/s is of encoded bytes, a MB being a million bytes, whatever the operation.

One run measures everything in turn, round by round, each round in an order of its own, so that what else the machine
does falls on all alike. Times are medians with the quartiles' distance; a ratio is the median of the rounds' own.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lookonce_cache import PRECISIONS
from lookonce_evaluation.benching import Spread
from lookonce_evaluation.redis_process import RedisProcess
from lookonce_evaluation.storing import COPY, LINKS, MEGABYTE, OVERWRITE, Block, Cell, Name, block_of, opened
from lookonce_evaluation.tables import header, line

SIZES = (0.2, 2.0, 36.0)  # MB
HEADER = header(
    "MB", "precision", "encoded, MB", "where", "operation", "ms", "MB/s", "time over its limit", "the limit"
)
SUMMARY = header("MB", "precision", *(f"get / bare GET, {link}" for link in LINKS), "decode, of the speed of a copy")


async def measured(sizes: Sequence[float], rounds: int) -> list[Block]:
    """Every cell, timed `rounds` times."""
    with RedisProcess() as redis:
        async with opened(redis) as stores:
            blocks = [await block_of(size, precision, stores) for size in sizes for precision in PRECISIONS]
            gc.collect()
            for number in range(rounds + 1):
                order = random.Random(number)
                for block in blocks:
                    await block.round(order, keep=number > 0)  # the first round warms up
    return blocks


def row(block: Block, cell: Cell) -> dict[str, Any]:
    """A cell's figures."""
    milliseconds = Spread.of(1000 * seconds for seconds in cell.seconds)
    found: dict[str, Any] = {
        "megabytes": block.megabytes,
        "precision": block.precision,
        "encoded_bytes": block.encoded,
        "where": cell.name.where,
        "operation": cell.name.operation,
        "ms": milliseconds._asdict(),
        "megabytes_per_second": 1000 * block.encoded / MEGABYTE / milliseconds.median,
    }
    if cell.limit is not None:
        found["of_limit"] = Spread.of(block.of_limit(cell))._asdict()
        found["limit"] = cell.limit.operation
    return found


def lines(block: Block) -> list[str]:
    """The table's lines of one context."""
    made = []
    for cell in block.cells:
        found = row(block, cell)
        ms, times = found["ms"], found.get("of_limit")
        made.append(
            line(
                (
                    f"{block.megabytes:g}",
                    block.precision,
                    f"{block.encoded / MEGABYTE:.2f}",
                    *cell.name,
                    f"{ms['median']:.3f} ± {ms['quartiles'] / 2:.3f}",
                    f"{found['megabytes_per_second']:.0f}",
                    f"{times['median']:.2f}x ± {times['quartiles'] / 2:.2f}" if times else "-",
                    found.get("limit", "-"),
                )
            )
        )
    return made


def summary(block: Block) -> str:
    """The line of one context in the table that is to be kept an eye on."""
    cells = {cell.name: cell for cell in block.cells}
    gets = (Spread.of(block.of_limit(cells[Name(f"Redis, {link}", "get")])).median for link in LINKS)
    decode = Spread.of(block.of_limit(cells[Name("process", "decode")])).median
    return line((f"{block.megabytes:g}", block.precision, *(f"{get:.2f}x" for get in gets), f"{1 / decode:.2f}x"))


def report(blocks: Sequence[Block]) -> dict[str, Any]:
    """All figures."""
    return {
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "rows": [row(block, cell) for block in blocks for cell in block.cells],
    }


def main(given: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m lookonce_evaluation.bench_store",
        description=__doc__,
        epilog=f"Copies: {COPY} takes fresh memory, as decode must; {OVERWRITE} uses the same again.",
    )
    parser.add_argument("--rounds", type=int, default=20, help="runs of each operation [%(default)s]")
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES, help="MB of a native context [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="two rounds of the smallest size: does it work?")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args(given)
    sizes, rounds = (SIZES[:1], 2) if arguments.quick else (arguments.sizes, arguments.rounds)
    blocks = asyncio.run(measured(sizes, rounds))
    print("\n".join([HEADER, *(text for block in blocks for text in lines(block))]))
    print("\n".join(["", SUMMARY, *map(summary, blocks)]))
    if arguments.json:
        arguments.json.write_text(json.dumps(report(blocks), indent=1) + "\n")


if __name__ == "__main__":
    main()
