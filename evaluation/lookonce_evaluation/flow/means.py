"""Means over images, and how sure they are."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from lookonce_evaluation.paired import draws


class Mean(NamedTuple):
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float

    def shown(self, digits: int = 0) -> str:
        """As tables show it."""
        return f"{self.mean:z.{digits}f} ({self.low:z.{digits}f} to {self.high:z.{digits}f})"


def means(values: Sequence[Sequence[Sequence[float]]]) -> list[Mean]:
    """The mean of each column over all questions, by a bootstrap over images; of no question there is none.

    Args:
        values: `[images][questions of it][columns]`; images may have different numbers of questions, and none.
    """
    per_image = [torch.tensor(rows, dtype=torch.float64) for rows in values if rows]
    if not per_image:
        return []
    sums = torch.stack([rows.sum(0) for rows in per_image])  # [images, columns]
    counts = torch.tensor([[len(rows)] for rows in per_image], dtype=torch.float64)
    times = draws(len(per_image)).double()
    resampled = (times @ sums) / (times @ counts)
    low, high = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    whole = sums.sum(0) / counts.sum()
    return [Mean(*each) for each in torch.stack([whole, low, high], 1).tolist()]
