"""What a later question costs in vLLM, five ways side by side: `make bench-vllm`.

- full pass: vLLM with nothing cached, and a picture it never saw with each question;
- full pass, prefix cache: the same picture every time, its keys and values in vLLM's prefix cache;
- compressed, memory and Redis: our answer pass from the context, read from either store each time;
- full KV, Redis: our answer pass with everything kept, which is what caching whole prefixes outside the GPU costs.

Each way starts where a server does: at the image's bytes, or at the context's id. So many ask at once, each the next
question when the last one is answered; every question is another one. One process runs two engines, one without caches
for the first way and one for the others, of which only one is asked at a time; the ways take turns, round by round, so
that what else the machine does falls on all alike. Times are medians ± half the distance of the quartiles.
"""

import argparse
import asyncio
import json
from collections.abc import Iterable
from pathlib import Path

from lookonce_evaluation.benching import redis_store
from lookonce_evaluation.serving import report
from lookonce_evaluation.serving.measuring import Effort, Measured, measure_model
from lookonce_evaluation.serving.models import MODELS
from lookonce_server.settings import Settings

_DEFAULT = ("scenes", "llava")


async def run(arguments: argparse.Namespace) -> list[Measured]:
    """Measure."""
    quick = arguments.quick
    effort = Effort(
        concurrencies=arguments.concurrency,
        rounds=1 if quick else 2,
        answers=2 if quick else 8,
        each=1 if quick else 2,
        tokens=arguments.tokens,
        said=arguments.said,
        pictures=1 if quick else 3,
    )
    measured = []
    async with redis_store(arguments.redis) as redis:
        for name in arguments.models or (_DEFAULT[:1] if quick else _DEFAULT):
            measured.append(await measure_model(MODELS[name], redis, Settings(), effort))
    return measured


def show(measured: list[Measured]) -> None:
    """Print the tables."""
    parts: list[tuple[str, Iterable[str]]] = [
        ("A later question:", report.speed_table(measured)),
        ("Loads, in the worker:", report.held_table(measured)),
        ("A describe pass:", report.describe_table(measured)),
        ("Checked:", (f"- {told}" for told in report.checks(measured))),
        ("Expected:", (f"- {told}" for told in report.expectations(measured))),
    ]
    for title, lines in parts:
        print(f"{title}\n", *lines, "", sep="\n")


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m lookonce_evaluation.bench_vllm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="the small model and few answers: does it run at all?")
    parser.add_argument("--models", nargs="+", choices=MODELS, help=f"which checkpoints [{' '.join(_DEFAULT)}]")
    parser.add_argument("--concurrency", type=_numbers, default=(1, 8, 32), help="how many ask at once [1,8,32]")
    parser.add_argument("--tokens", type=int, default=8, help="most tokens of an answer [%(default)s]")
    parser.add_argument("--said", type=int, default=48, help="most tokens of a description [%(default)s]")
    parser.add_argument("--redis", help="URL of a Redis; default: one is started")
    parser.add_argument("--json", type=Path, help="also write everything there")
    given = parser.parse_args(arguments)
    measured = asyncio.run(run(given))
    show(measured)
    if given.json:
        given.json.write_text(json.dumps(report.as_json(measured), indent=1) + "\n")


def _numbers(text: str) -> tuple[int, ...]:
    """As in "1,8,32"."""
    found = tuple(int(part) for part in text.split(","))
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers above 0")
    return found


if __name__ == "__main__":
    main()
