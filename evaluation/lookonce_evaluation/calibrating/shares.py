"""Shares of right answers, and how sure it is what of the full pass's share a way of keeping tokens keeps."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.calibrating.measuring import bits
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.runs import JSON

RESAMPLES = 4000
_LEVEL = 0.05  # one-sided


class Compared(NamedTuple):
    """A way of keeping tokens beside the full pass, on the same images."""

    full: float  # share that the full pass has right
    share: float  # that this way has
    at_least: float  # of the full pass's share: lower bound, one-sided 95%
    images: int

    @property
    def kept(self) -> float:
        """What this way keeps of the full pass's share."""
        return self.share / self.full

    def is_shown(self, tolerance: float) -> bool:
        """Whether at least `1 - tolerance` of the full pass is kept, surely enough."""
        return self.at_least >= 1 - tolerance

    def images_needed(self, tolerance: float) -> int | None:
        """How many images would show it, if the difference is what it seems; None if it is too large itself."""
        margin = self.kept - (1 - tolerance)
        if margin <= 0:
            return None
        return math.ceil(self.images * ((self.kept - self.at_least) / margin) ** 2)


class Shares:
    """The right answers of several ways on the same images.

    The share is a macro mean: over the kinds of question, and in each over its categories. Answers about one image hang
    together, so intervals come of a paired bootstrap over images. Among those drawn is one image more, a mean one in
    which one answer less is right: few images that all went well would else be no reason to doubt.

    Args:
        records: of each image, see `measuring.measure`.
    """

    def __init__(self, records: Sequence[JSON]) -> None:
        self._records = records
        self._columns = sorted({column for record in records for column in record["columns"]})
        kinds = [column.partition("/")[0] for column in self._columns]
        self._weights = torch.tensor([1 / (kinds.count(kind) * len(set(kinds))) for kind in kinds]).double()
        self._asked = self._counts([torch.ones(len(record["columns"])) for record in records])
        self._full = self._counts([bits(record["full"]) for record in records])

    def share(self, way: str) -> float:
        """Of the answers that were right."""
        return float(self._share(self._right(way).sum(0), self._asked.sum(0)))

    def distance(self, way: str) -> float:
        """Mean KL divergence from the full pass."""
        return float(sum(record["ways"][way][1] for record in self._records) / len(self._records))

    def compared(self, way: str) -> Compared:
        """That way beside the full pass.

        Raises:
            EvaluationError: the full pass has nothing right.
        """
        right = self._right(way)
        full = float(self._share(self._full.sum(0), self._asked.sum(0)))
        if not full:
            raise EvaluationError("the full pass has no answer right on these images: there is nothing to keep")
        mean = self._asked.mean(0)
        asked, wholly = (torch.cat((one, one.mean(0)[None])) for one in (self._asked, self._full))
        ours = torch.cat((right, (right.mean(0) - mean / mean.sum())[None]))
        images = len(asked)
        drawn = torch.randint(images, (RESAMPLES, images), generator=torch.Generator().manual_seed(0))
        times = torch.zeros(RESAMPLES, images).scatter_add_(1, drawn, torch.ones(RESAMPLES, images)).double()
        kept = self._share(times @ ours, times @ asked) / self._share(times @ wholly, times @ asked)
        return Compared(full, self.share(way), float(kept.nan_to_num(0.0).quantile(_LEVEL)), len(right))

    def _right(self, way: str) -> Tensor:
        return self._counts([bits(record["ways"][way][0]) for record in self._records])

    def _counts(self, values: list[Tensor]) -> Tensor:
        """Sums by column, `[images, columns]`."""
        found = torch.zeros(len(values), len(self._columns))
        for row, record, value in zip(found, self._records, values, strict=True):
            row.index_add_(0, torch.tensor([self._columns.index(column) for column in record["columns"]]), value)
        return found.double()

    def _share(self, right: Tensor, asked: Tensor) -> Tensor:
        """Macro mean of `[..., columns]` over those that were asked."""
        weights = self._weights * (asked > 0)
        return (weights * right / asked.clamp_min(1e-9)).sum(-1) / weights.sum(-1)
