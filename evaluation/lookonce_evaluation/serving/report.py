"""What was measured, as tables and as JSON."""

from collections.abc import Iterator
from typing import Any

from lookonce_evaluation.benching import Spread
from lookonce_evaluation.serving.loop import Cell
from lookonce_evaluation.serving.measuring import Measured
from lookonce_evaluation.serving.ways import EVERYTHING, FULL, MEMORY, PREFIX, REDIS
from lookonce_evaluation.tables import header, line


def speed_table(measured: list[Measured]) -> Iterator[str]:
    """A line for each way and concurrency."""
    yield header(
        *("model", "image tokens", "who ask", "a later question by", "answers", "first token, ms", "p90", "sooner"),
        *("questions/s", "tokens/s", "more", "computed", "KiB kept"),
    )
    for one in measured:
        for concurrency in one.cells[MEMORY]:
            for way, cells in one.cells.items():
                if concurrency in cells:
                    yield _speed_line(one, way, concurrency)


def _speed_line(one: Measured, way: str, concurrency: int) -> str:
    here, base = one.cells[way][concurrency].as_json(), one.cells.get(FULL, {}).get(concurrency)
    first = Spread(**here["first_token_ms"])
    sooner = more = "-"
    if base is not None:
        sooner = f"{base.as_json()['first_token_ms']['median'] / first.median:.1f}x"
        more = f"{here['requests_per_s'] / base.as_json()['requests_per_s']:.1f}x"
    return line(
        [
            *(one.label, one.image_tokens, concurrency, way, here["answers"], first, f"{first.p90:.1f}", sooner),
            *(f"{here['requests_per_s']:.2f}", f"{here['tokens_per_s']:.1f}", more, f"{here['computed_tokens']:.0f}"),
            f"{one.nbytes[way] / 1024:.0f}" if one.nbytes[way] else "-",
        ]
    )


def held_table(measured: list[Measured]) -> Iterator[str]:
    """How long loads hold vLLM's steps."""
    yield header(
        *("model", "who ask", "a later question by", "loads", "one load, ms", "p90", "a step's loads, ms", "p90"),
        "of the step",
    )
    for one in measured:
        for way in (MEMORY, REDIS, EVERYTHING):
            for concurrency, cell in one.cells[way].items():
                held = held_of(cell)
                each, step = (Spread(**held[name]) for name in ("load_ms", "step_loads_ms"))
                yield line(
                    [
                        *(one.label, concurrency, way, held["loads"], f"{each.median:.2f}", f"{each.p90:.2f}"),
                        *(f"{step.median:.2f}", f"{step.p90:.2f}", f"{held['share_of_steps']:.1%}"),
                    ]
                )


def held_of(cell: Cell) -> dict[str, Any]:
    """Of the steps that loaded contexts; times in milliseconds."""
    steps = [step for step in cell.steps if step.loads]
    return {
        "loads": sum(step.loads for step in steps),
        "load_ms": Spread.of(1000 * step.loading / step.loads for step in steps)._asdict(),
        "step_loads_ms": Spread.of(1000 * step.loading for step in steps)._asdict(),
        "share_of_steps": sum(step.loading for step in steps) / sum(step.whole for step in steps),
    }


def describe_table(measured: list[Measured]) -> Iterator[str]:
    """What describe passes cost, in both ways."""
    yield header(
        *("model", "tokens said", "generated, ms", "captured prefill, ms", "both, ms", "captured while said, ms"),
        *("of both", "result, ms", "with writing, ms", "of its step"),
    )
    for one in measured:
        cost = one.describe.as_json()
        said = cost["tokens_said"]
        names = ("generated_ms", "captured_ms", "both_ms", "at_once_ms", "result_ms", "capture_holds_ms")
        generated, captured, both, at_once, result, holds = (Spread(**cost[name]) for name in names)
        yield line(
            [
                *(one.label, f"{sum(said) / len(said):.0f}", generated, captured, both, at_once),
                *(f"{at_once.median / both.median:.2f}x", result, holds),
                f"{cost['capture_share_of_step']:.1%}",
            ]
        )


def checks(measured: list[Measured]) -> Iterator[str]:
    """What was compared, and whether it was alike."""
    for one in measured:
        for name, found in one.checks.items():
            yield (
                f"{one.label}: {name}: {found.alike} of {found.pairs} answers token by token the same,"
                f" log-probabilities within {found.furthest:.2g}; {found.different} different answers"
            )
        alike, pairs = one.describe.as_json()["alike"]
        yield f"{one.label}: described in both ways: {alike} of {pairs} contexts keep the same tokens"


def expectations(measured: list[Measured]) -> Iterator[str]:
    """What is expected of the ways, and whether it was found."""
    for one in measured:
        lowest = min(one.cells[MEMORY])
        cells = {way: found[lowest] for way, found in one.cells.items() if lowest in found}
        first = {way: Spread.of(1000 * t.first_token for t in cell.timings) for way, cell in cells.items()}

        def told(what: str, holds: bool, *ways: str, first: dict[str, Spread] = first, label: str = one.label) -> str:
            found = ", ".join(f"{way} {first[way]} ms" for way in ways)
            return f"{label}: {what}: {'holds' if holds else 'does NOT hold'} ({found})"

        compressed, redis = first[MEMORY].median, first[REDIS].median
        yield told("compressed is no later than the prefix cache", compressed <= first[PREFIX].median, MEMORY, PREFIX)
        yield told("Redis is within 25% of memory", redis <= 1.25 * compressed, MEMORY, REDIS)
        if FULL in first:
            tenth = first[FULL].median / 10
            yield told("compressed is ten times sooner than the full pass", compressed <= tenth, MEMORY, FULL)
            yield told("so it is from Redis", redis <= tenth, REDIS, FULL)


def as_json(measured: list[Measured]) -> list[dict[str, Any]]:
    """Everything; times in milliseconds."""
    return [
        {
            "model": one.label,
            "image_tokens": one.image_tokens,
            "block_size": one.block_size,
            "checks": {name: found._asdict() for name, found in one.checks.items()},
            "describe": one.describe.as_json(),
            "ways": {
                way: {
                    "bytes": one.nbytes[way],
                    "concurrency": {str(c): cell.as_json() for c, cell in cells.items()},
                    "held": {str(c): held_of(cell) for c, cell in cells.items() if any(s.loads for s in cell.steps)},
                }
                for way, cells in one.cells.items()
            },
        }
        for one in measured
    ]
