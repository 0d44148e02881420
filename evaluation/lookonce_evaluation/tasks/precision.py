"""What storing contexts in fewer bytes costs: `python -m lookonce_evaluation.tasks.precision`.

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
from tqdm import tqdm

from lookonce_cache import PRECISIONS
from lookonce_cache.format.quantization import QuantizedTensor, Role, quantize
from lookonce_evaluation.data.scenes import Case, held_out
from lookonce_evaluation.describe import describe, kept_tokens
from lookonce_evaluation.metrics.bootstrap import Estimate
from lookonce_evaluation.metrics.grading import Graded, grade_exactly
from lookonce_evaluation.metrics.mme import Outcomes
from lookonce_evaluation.model import EvalModel, PreparedCache
from lookonce_evaluation.options import positive
from lookonce_evaluation.tables import header, line
from lookonce_server.settings import BUNDLED, Settings

RETENTIONS = (1.0, 0.2, 0.05)
FIRST_SEED = 500_000_000  # of the scenes of the published table


class Row(NamedTuple):
    """What contexts of one retention came to in one precision. Accuracies in percent, differences in points."""

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


class Measured:
    """Gathers what comes of one retention and precision."""

    def __init__(self, retention: float, precision: str) -> None:
        self.retention, self.precision = retention, precision
        self.outcomes = Outcomes()
        self._sizes: list[tuple[int, int, int]] = []
        self._errors: list[tuple[float, float]] = []

    def add(self, case: Case, kept: tuple[QuantizedTensor, ...], graded: Graded, native: Tensor, side: int) -> None:
        """Take one image's answers.

        Args:
            case: the image and its questions.
            kept: the context's keys and values.
            graded: the answers.
            native: the logits `[questions, vocabulary]` that native keys and values gave.
            side: bytes of the context that are neither.
        """
        size = sum(part.nbytes for part in kept)
        self._sizes.append((kept[0].shape[2], size, size + side))
        difference = (graded.first - native).abs()
        self._errors.append((difference.mean().item(), difference.max().item()))
        self.outcomes.add(case, graded.right)

    def row(self, native: Outcomes) -> Row:
        """Write the table's row."""
        tokens, size, total = (sum(each) / len(each) for each in zip(*self._sizes, strict=True))
        means, largest = zip(*self._errors, strict=True)
        percent, change = self.outcomes.percent, self.outcomes.change
        return Row(
            self.retention,
            self.precision,
            round(tokens, 1),
            round(size),
            round(total),
            sum(means) / len(means),
            max(largest),
            *(percent("acc"), percent("acc+"), percent("open")),
            *(change(native, "acc"), change(native, "open")),
        )


def evaluate(model: EvalModel, cases: list[Case], settings: Settings, progress: bool = True) -> list[Row]:
    """Measure the table's rows, native first in each retention."""
    measured = {share: [Measured(share, name) for name in PRECISIONS] for share in RETENTIONS}
    window = model.window(settings.window)
    for case in tqdm(cases, disable=not progress):
        described = describe(model, case, window)
        prompts = [model.after_context(question.text) for question in case.questions]
        shared = int(described.prompt.image_positions[0])
        for share, of_share in measured.items():
            kept = kept_tokens(described, share, settings)
            context = described.context(kept)._replace(prompts=prompts)
            native = grade_exactly(model, context, case.questions).first
            for each in of_share:
                tensors, cache = _through(context, each.precision, shared)
                graded = grade_exactly(model, cache, case.questions)
                each.add(case, tensors, graded, native, 4 * (kept.numel() + len(described.prompt.image_positions)))
    return [each.row(of_share[0].outcomes) for of_share in measured.values() for each in of_share]


def _through(context: PreparedCache, precision: str, shared: int) -> tuple[tuple[QuantizedTensor, ...], PreparedCache]:
    """A context as it is stored, and whole again after the tokens that all contexts share."""

    def kept(tensor: Tensor, role: Role) -> QuantizedTensor:
        return quantize(tensor[:, :, shared:].contiguous(), role, precision)

    keys, values = kept(context.keys, "keys"), kept(context.values, "values")
    whole_keys = torch.cat((context.keys[:, :, :shared], keys.dequantize()), 2)
    whole_values = torch.cat((context.values[:, :, :shared], values.dequantize()), 2)
    return (keys, values), context._replace(keys=whole_keys, values=whole_values)


def markdown(rows: list[Row]) -> str:
    """Write the table."""
    sizes = ("kept", "precision", "tokens", "K and V, bytes", "of native", "all, bytes", "logit error", "largest")
    lines = [header(*sizes, "ACC", "to native (95%)", "ACC+", "open", "to native (95%)")]
    native = {row.retention: row.bytes for row in rows if row.precision == "native"}
    for row in rows:
        cells = [f"{row.retention:.0%}", row.precision, f"{row.tokens:.0f}", f"{row.bytes:,}"]
        cells += [f"{row.bytes / native[row.retention]:.3f}", f"{row.total:,}"]
        cells += [f"{row.logit_mean:.4f}", f"{row.logit_max:.2f}", f"{row.accuracy:.2f}", str(row.accuracy_change)]
        lines.append(line([*cells, f"{row.accuracy_plus:.2f}", f"{row.open:.2f}", row.open_change]))
    return "\n".join(lines)


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
