"""What storing contexts in fewer bytes costs: `python -m lookonce_evaluation.precision`.

The same questions about the same held-out scenes are answered on the same contexts, their keys and values stored in
each precision and widened again. So every difference to the native rows is the storage's. As in the server, the tokens
before the image are not part of a context and stay as they are.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from lookonce_cache import PRECISIONS
from lookonce_cache.format.quantization import QuantizedTensor, Role, quantize
from lookonce_evaluation.commands import parse_arguments, write_rows
from lookonce_evaluation.dataset import Case, held_out
from lookonce_evaluation.grading import Graded
from lookonce_evaluation.paired import Interval, Outcomes
from lookonce_evaluation.subject import Subject
from lookonce_evaluation.tables import header, line
from lookonce_pruning import get_selection, kept_count, parse_window
from lookonce_server.settings import Settings

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
    accuracy_change: Interval  # to native
    open_change: Interval


class Ask:
    """One retention and precision: gathers what comes of it.

    Args:
        retention: share of the image tokens that the contexts keep.
        precision: what they are stored in.
    """

    def __init__(self, retention: float, precision: str) -> None:
        self.retention, self.precision = retention, precision
        self.outcomes = Outcomes()
        self._sizes: list[tuple[int, int, int]] = []
        self._errors: list[tuple[float, float]] = []

    def add(
        self, case: Case, kept: tuple[QuantizedTensor, QuantizedTensor], graded: Graded, native: Tensor, side: int
    ) -> None:
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
        """The table's row."""
        tokens, size, total = (sum(each) / len(each) for each in zip(*self._sizes, strict=True))
        means, largest = zip(*self._errors, strict=True)
        error = sum(means) / len(means)
        return Row(
            self.retention,
            self.precision,
            round(tokens, 1),
            round(size),
            round(total),
            error,
            max(largest),
            self.outcomes.percent("acc"),
            self.outcomes.percent("acc+"),
            self.outcomes.percent("open"),
            self.outcomes.change(native, "acc"),
            self.outcomes.change(native, "open"),
        )


def evaluate(subject: Subject, cases: list[Case], settings: Settings, progress: bool = True) -> list[Row]:
    """The table's rows, native first in each retention."""
    asks = {share: [Ask(share, name) for name in PRECISIONS] for share in RETENTIONS}
    selection = get_selection(settings.selection)
    window = parse_window(settings.window, subject.runner.num_layers)
    for case in tqdm(cases, disable=not progress):
        described = subject.describe(case, window)
        scores = described.scores(settings.rows)
        shared = int(described.prompt.image_positions[0])
        for share, of_share in asks.items():
            kept = selection.select(scores, kept_count(share, scores.tokens))
            packed = described.packed(kept, subject.runner.inv_freq)
            native = subject.ask(case, packed.keys, packed.values).first
            for ask in of_share:
                keys, whole_keys = _through(packed.keys, "keys", ask.precision, shared)
                values, whole_values = _through(packed.values, "values", ask.precision, shared)
                graded = subject.ask(case, whole_keys, whole_values)
                ask.add(case, (keys, values), graded, native, 4 * (kept.numel() + scores.tokens))
    return [ask.row(of_share[0].outcomes) for of_share in asks.values() for ask in of_share]


def _through(packed: Tensor, role: Role, precision: str, shared: int) -> tuple[QuantizedTensor, Tensor]:
    """A context's keys or values as they are stored, and whole again after the tokens that all contexts share."""
    kept = quantize(packed[:, :, shared:].contiguous(), role, precision)
    return kept, torch.cat((packed[:, :, :shared], kept.dequantize()), 2)


def markdown(rows: list[Row]) -> str:
    """The table."""
    lines = [
        header(
            *("kept", "precision", "tokens", "K and V, bytes", "of native", "all, bytes", "logit error", "largest"),
            *("ACC", "to native (95%)", "ACC+", "open", "to native (95%)"),
        )
    ]
    native = {row.retention: row.bytes for row in rows if row.precision == "native"}
    for row in rows:
        sizes = [f"{row.bytes:,}", f"{row.bytes / native[row.retention]:.3f}", f"{row.total:,}"]
        errors = [f"{row.logit_mean:.4f}", f"{row.logit_max:.2f}"]
        right = [f"{row.accuracy:.2f}", row.accuracy_change, f"{row.accuracy_plus:.2f}", f"{row.open:.2f}"]
        cells = [f"{row.retention:.0%}", row.precision, f"{row.tokens:.0f}", *sizes, *errors, *right, row.open_change]
        lines.append(line(cells))
    return "\n".join(lines)


def main() -> None:
    """The command."""
    arguments = parse_arguments("precision", __doc__, images=250)
    with torch.inference_mode():
        rows = evaluate(Subject.load(arguments.model, Settings()), held_out(arguments.images, FIRST_SEED), Settings())
    print(markdown(rows))
    write_rows(rows, arguments.json)


if __name__ == "__main__":
    main()
