"""Shares of right answers, and how sure it is what of the full pass's share a method of keeping tokens keeps."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.metrics.bootstrap import draws
from lookonce_evaluation.runs import JSON

RESAMPLES = 4000
_LEVEL = 0.05  # one-sided


class Compared(NamedTuple):
    """A method beside the full pass, on the same images."""

    full: float  # share that the full pass has right
    share: float  # that this method has
    at_least: float  # of the full pass's share: lower bound, one-sided 95%
    images: int

    @property
    def kept(self) -> float:
        """What this method keeps of the full pass's share."""
        return self.share / self.full

    def is_shown(self, tolerance: float) -> bool:
        """Tell whether at least `1 - tolerance` of the full pass is kept, surely enough."""
        return self.at_least >= 1 - tolerance

    def images_needed(self, tolerance: float) -> int | None:
        """Estimate how many images would show it, if the difference is what it seems; None if it is too large."""
        margin = self.kept - (1 - tolerance)
        if margin <= 0:
            return None
        return math.ceil(self.images * ((self.kept - self.at_least) / margin) ** 2)


class Shares:
    """The right answers of several methods on the same images.

    The share is a macro mean: over the kinds of question, and in each over its categories. Answers about one image hang
    together, so intervals come of a paired bootstrap over images. Among those drawn is one image more, a mean one in
    which one answer less is right: few images that all went well would else be no reason to doubt.

    Args:
        records: of each image, see `tasks.measure`.
    """

    def __init__(self, records: Sequence[JSON]) -> None:
        self._records = records
        self._columns = sorted({column for record in records for column in record["columns"]})
        kinds = [column.partition("/")[0] for column in self._columns]
        self._weights = torch.tensor([1 / (kinds.count(kind) * len(set(kinds))) for kind in kinds]).double()
        self._asked = self._counts(["1" * len(record["columns"]) for record in records])
        self._full = self._counts([record["full"] for record in records])

    def share(self, method: str) -> float:
        """Compute the share of the answers that were right."""
        return float(self._share(self._right(method).sum(0), self._asked.sum(0)))

    def distance(self, method: str) -> float:
        """Compute the mean KL divergence from the full pass."""
        return float(sum(record["ways"][method][1] for record in self._records) / len(self._records))

    def compared(self, method: str) -> Compared:
        """Compare a method with the full pass; EvaluationError where that has nothing right."""
        right = self._right(method)
        full = float(self._share(self._full.sum(0), self._asked.sum(0)))
        if not full:
            raise EvaluationError("the full pass has no answer right on these images: there is nothing to keep")
        mean = self._asked.mean(0)
        asked, wholly = (torch.cat((counts, counts.mean(0)[None])) for counts in (self._asked, self._full))
        ours = torch.cat((right, (right.mean(0) - mean / mean.sum())[None]))
        times = draws(len(asked), RESAMPLES).double()
        kept = self._share(times @ ours, times @ asked) / self._share(times @ wholly, times @ asked)
        return Compared(full, self.share(method), float(kept.nan_to_num(0.0).quantile(_LEVEL)), len(right))

    def _right(self, method: str) -> Tensor:
        return self._counts([record["ways"][method][0] for record in self._records])

    def _counts(self, bits: list[str]) -> Tensor:
        """Sums of zeros and ones by column, `[images, columns]`."""
        counts = torch.zeros(len(bits), len(self._columns))
        for row, record, text in zip(counts, self._records, bits, strict=True):
            columns = torch.tensor([self._columns.index(column) for column in record["columns"]])
            row.index_add_(0, columns, torch.tensor([float(bit) for bit in text]))
        return counts.double()

    def _share(self, right: Tensor, asked: Tensor) -> Tensor:
        """Macro mean of `[..., columns]` over those that were asked."""
        weights = self._weights * (asked > 0)
        return (weights * right / asked.clamp_min(1e-9)).sum(-1) / weights.sum(-1)
