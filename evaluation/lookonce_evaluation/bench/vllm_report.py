"""What was measured of the vLLM engine, as tables and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lookonce_evaluation.bench.methods import FULL
from lookonce_evaluation.bench.timing import AnswerTimes, DescribeTimes, Spread
from lookonce_evaluation.tables import header, line
from lookonce_server.engines.vllm.connector.step_times import StepTimes

MEMORY, REDIS, EVERYTHING = "compressed, memory", "compressed, Redis", "full KV, Redis"


@dataclass
class Cell:
    """What one method took at one concurrency, over all rounds."""

    answers: list[AnswerTimes] = field(default_factory=list)
    steps: list[StepTimes] = field(default_factory=list)
    seconds: float = 0.0  # in which all were answered


@dataclass
class ModelFigures:
    """What was measured of one checkpoint."""

    label: str
    image_tokens: int
    nbytes: dict[str, int]  # by method: kept for one image
    describes: list[DescribeTimes]
    describe_steps: list[StepTimes]
    cells: dict[str, dict[int, Cell]] = field(default_factory=dict)  # by method and concurrency


def text(figures: Sequence[ModelFigures]) -> str:
    """Return all tables."""
    parts = [
        ("A later question:", speed_table(figures)),
        ("Loads, in the worker:", load_table(figures)),
        ("A describe pass:", describe_table(figures)),
    ]
    return "\n\n".join(f"{title}\n\n" + "\n".join(lines) for title, lines in parts)


def speed_table(figures: Sequence[ModelFigures]) -> Iterator[str]:
    """A line for each method and concurrency."""
    yield header(
        *("model", "image tokens", "who ask", "a later question by", "answers", "first token, ms", "p90", "sooner"),
        *("questions/s", "tokens/s", "more", "computed", "KiB kept"),
    )
    for model in figures:
        for concurrency in model.cells[MEMORY]:
            for method, cells in model.cells.items():
                if concurrency in cells:
                    yield _speed_line(model, method, concurrency)


def _speed_line(model: ModelFigures, method: str, concurrency: int) -> str:
    speed = _speed(model.cells[method][concurrency])
    first, sooner, more = speed["first_token_ms"], "-", "-"
    if concurrency in model.cells.get(FULL, {}):
        full = _speed(model.cells[FULL][concurrency])
        sooner = f"{full['first_token_ms'].median / first.median:.1f}x"
        more = f"{speed['requests_per_s'] / full['requests_per_s']:.1f}x"
    nbytes = model.nbytes[method]
    return line(
        [
            *(model.label, model.image_tokens, concurrency, method, speed["answers"], first, f"{first.p90:.1f}"),
            *(sooner, f"{speed['requests_per_s']:.2f}", f"{speed['tokens_per_s']:.1f}", more),
            *(f"{speed['computed_tokens']:.0f}", f"{nbytes / 1024:.0f}" if nbytes else "-"),
        ]
    )


def load_table(figures: Sequence[ModelFigures]) -> Iterator[str]:
    """How long loads hold vLLM's steps."""
    yield header(
        *("model", "who ask", "a later question by", "loads", "one load, ms", "p90", "a step's loads, ms", "p90"),
        "of the step",
    )
    for model in figures:
        for method in (MEMORY, REDIS, EVERYTHING):
            for concurrency, cell in model.cells[method].items():
                held = _loads(cell)
                each, step = held["load_ms"], held["step_loads_ms"]
                yield line(
                    [
                        *(model.label, concurrency, method, held["loads"], f"{each.median:.2f}", f"{each.p90:.2f}"),
                        *(f"{step.median:.2f}", f"{step.p90:.2f}", f"{held['share_of_steps']:.1%}"),
                    ]
                )


def describe_table(figures: Sequence[ModelFigures]) -> Iterator[str]:
    """What describe passes cost."""
    yield header(
        *("model", "tokens said", "generated, ms", "captured prefill, ms", "both, ms", "result, ms"),
        *("with writing, ms", "of its step"),
    )
    for model in figures:
        cost = _describes(model)
        tokens = cost["tokens"]
        names = ("generate_ms", "capture_ms", "both_ms", "compress_ms", "capture_holds_ms")
        yield line(
            [
                *(model.label, f"{sum(tokens) / len(tokens):.0f}", *(cost[name] for name in names)),
                f"{cost['capture_share_of_step']:.1%}",
            ]
        )


def as_json(figures: Sequence[ModelFigures]) -> list[dict[str, Any]]:
    """Everything; times in milliseconds."""
    return [
        {
            "model": model.label,
            "image_tokens": model.image_tokens,
            "describe": _describes(model),
            "methods": {
                method: {
                    "bytes": model.nbytes[method],
                    "concurrency": {str(number): _speed(cell) for number, cell in cells.items()},
                    "loads": {
                        str(number): _loads(cell)
                        for number, cell in cells.items()
                        if any(step.loads for step in cell.steps)
                    },
                }
                for method, cells in model.cells.items()
            },
        }
        for model in figures
    ]


def _speed(cell: Cell) -> dict[str, Any]:
    return {
        "answers": len(cell.answers),
        "first_token_ms": Spread.of_seconds(answer.first_token for answer in cell.answers),
        "answer_ms": Spread.of_seconds(answer.total for answer in cell.answers),
        "requests_per_s": len(cell.answers) / cell.seconds,
        "tokens_per_s": sum(answer.tokens for answer in cell.answers) / cell.seconds,
        "computed_tokens": Spread.of(answer.computed_tokens for answer in cell.answers).median,
    }


def _loads(cell: Cell) -> dict[str, Any]:
    """Of the steps that loaded contexts."""
    steps = [step for step in cell.steps if step.loads]
    return {
        "loads": sum(step.loads for step in steps),
        "load_ms": Spread.of_seconds(step.load_seconds / step.loads for step in steps),
        "step_loads_ms": Spread.of_seconds(step.load_seconds for step in steps),
        "share_of_steps": sum(step.load_seconds for step in steps) / sum(step.step_seconds for step in steps),
    }


def _describes(model: ModelFigures) -> dict[str, Any]:
    """Of the describe passes, and of the steps in which their captures ended."""
    passes, steps = model.describes, [step for step in model.describe_steps if step.captures]
    held = [step.compress_seconds + step.write_seconds for step in steps]
    return {
        "tokens": [each.tokens for each in passes],
        "generate_ms": Spread.of_seconds(each.generate for each in passes),
        "capture_ms": Spread.of_seconds(each.capture for each in passes),
        "both_ms": Spread.of_seconds(each.total for each in passes),
        "compress_ms": Spread.of_seconds(step.compress_seconds for step in steps),
        "capture_holds_ms": Spread.of_seconds(held),
        "capture_share_of_step": sum(held) / sum(step.step_seconds for step in steps),
    }
