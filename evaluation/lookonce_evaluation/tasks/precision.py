"""Accuracy by storage precision: `python -m lookonce_evaluation.tasks.precision`.

The same questions about the same held-out scenes are answered on the same contexts, their keys and values stored in
each precision and widened again. So every difference to the native rows is the storage's. As in the server, the tokens
before the image are not part of a context and stay as they are.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_cache import PRECISIONS
from lookonce_cache.format.quantization import QuantizedTensor, Role, quantize
from lookonce_evaluation.data.scenes import Case, held_out
from lookonce_evaluation.describe import describe, kept_tokens
from lookonce_evaluation.metrics.bootstrap import Estimate
from lookonce_evaluation.metrics.grading import grade_exactly
from lookonce_evaluation.metrics.mme import Outcomes
from lookonce_evaluation.model import EvalModel, PreparedCache
from lookonce_evaluation.options import positive
from lookonce_evaluation.progress import bar
from lookonce_evaluation.tables import table
from lookonce_server.settings import BUNDLED, Settings

RETENTIONS = (1.0, 0.2, 0.05)
FIRST_SEED = 500_000_000  # of the scenes of the published table


class Row(NamedTuple):
    """The results of one retention and precision; accuracies in percent."""

    retention: float
    precision: str
    tokens: float  # stored, mean; those before the image are not
    bytes: int  # of keys and values, mean
    total: int  # with kept indices and scores, mean; without the header
    logit_mean: float  # |difference to native| of the logits of an answer's first token: mean over all of them
    logit_max: float  # the largest of any question
    accuracy: float
    accuracy_plus: float
    open: float
    accuracy_change: Estimate  # to native
    open_change: Estimate


class Answered(NamedTuple):
    """One image's answers from one context in one precision; fields as in `Row`."""

    tokens: int
    bytes: int
    total: int
    logit_mean: float
    logit_max: float
    right: list[bool]


def evaluate(model: EvalModel, cases: list[Case], settings: Settings) -> list[Row]:
    """Measure the table's rows, native first in each retention."""
    answered: dict[tuple[float, str], list[Answered]] = {(s, p): [] for s in RETENTIONS for p in PRECISIONS}
    window = model.window(settings.window)
    for case in bar(cases, total=len(cases), label="precision"):
        described = describe(model, case, window)
        prompts = [model.after_context(question.text) for question in case.questions]
        columns = described.prompt.image_positions
        for share in RETENTIONS:
            kept = kept_tokens(described, share, settings)
            context = described.context(kept)._replace(prompts=prompts)
            native = grade_exactly(model, context, case.questions).first
            for name in PRECISIONS:
                tensors, cache = _through(context, name, int(columns[0]))
                graded = grade_exactly(model, cache, case.questions)
                size = sum(tensor.nbytes for tensor in tensors)
                error = (graded.first - native).abs()
                total = size + 4 * (kept.numel() + len(columns))
                stored = Answered(
                    tensors[0].shape[2], size, total, error.mean().item(), error.max().item(), graded.right
                )
                answered[share, name].append(stored)
    outcomes = {key: Outcomes.of(cases, [each.right for each in answers]) for key, answers in answered.items()}
    return [_row(*key, answers, outcomes[key], outcomes[key[0], "native"]) for key, answers in answered.items()]


def _row(retention: float, precision: str, answers: list[Answered], outcomes: Outcomes, native: Outcomes) -> Row:
    numbers = list(zip(*(each[:4] for each in answers), strict=True))
    tokens, size, total, logit_mean = (sum(column) / len(answers) for column in numbers)
    return Row(
        *(retention, precision, round(tokens, 1), round(size), round(total)),
        *(logit_mean, max(each.logit_max for each in answers)),
        *(outcomes.percent("acc"), outcomes.percent("acc+"), outcomes.percent("open")),
        *(outcomes.change(native, "acc"), outcomes.change(native, "open")),
    )


def _through(context: PreparedCache, precision: str, shared: int) -> tuple[tuple[QuantizedTensor, ...], PreparedCache]:
    """Store a context, and read it back behind the tokens that all share."""

    def kept(tensor: Tensor, role: Role) -> QuantizedTensor:
        return quantize(tensor[:, :, shared:].contiguous(), role, precision)

    keys, values = kept(context.keys, "keys"), kept(context.values, "values")
    whole_keys = torch.cat((context.keys[:, :, :shared], keys.dequantize()), 2)
    whole_values = torch.cat((context.values[:, :, :shared], values.dequantize()), 2)
    return (keys, values), context._replace(keys=whole_keys, values=whole_values)


def markdown(rows: list[Row]) -> str:
    """Write the table."""
    sizes = ("kept", "precision", "tokens", "K and V, bytes", "of native", "all, bytes", "logit error", "largest")
    lines: list[list[object]] = []
    native = {row.retention: row.bytes for row in rows if row.precision == "native"}
    for row in rows:
        cells: list[object] = [f"{row.retention:.0%}", row.precision, f"{row.tokens:.0f}", f"{row.bytes:,}"]
        cells += [f"{row.bytes / native[row.retention]:.3f}", f"{row.total:,}"]
        cells += [f"{row.logit_mean:.4f}", f"{row.logit_max:.2f}", f"{row.accuracy:.2f}", str(row.accuracy_change)]
        lines.append([*cells, f"{row.accuracy_plus:.2f}", f"{row.open:.2f}", row.open_change])
    return table((*sizes, "ACC", "to native (95%)", "ACC+", "open", "to native (95%)"), lines)


def main() -> None:
    """Run the command."""
    command = argparse.ArgumentParser(prog="python -m lookonce_evaluation.tasks.precision", description=__doc__)
    command.add_argument("--model", default=BUNDLED, help="checkpoint folder [the bundled one]")
    command.add_argument("--images", type=positive, default=250, help="held-out scenes [%(default)s]")
    command.add_argument("--json", type=Path, help="also write the rows there")
    options = command.parse_args()
    with torch.inference_mode():
        model = EvalModel.load(options.model, Settings())
        rows = evaluate(model, held_out(options.images, FIRST_SEED), Settings())
    print(markdown(rows))
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
