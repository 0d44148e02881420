"""Means, differences and areas, with 95% intervals by a bootstrap over images."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

RESAMPLES = 2000
_AT_ONCE = 100  # resamples of an area, which bounds memory


class Estimate(NamedTuple):
    """A number, and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Format a difference for a table."""
        return f"{self.value:+z.2f} ({self.low:+z.2f} to {self.high:+z.2f})"

    def shown(self, digits: int = 0) -> str:
        """Format a mean, as tables have it."""
        return f"{self.value:z.{digits}f} ({self.low:z.{digits}f} to {self.high:z.{digits}f})"


@lru_cache(maxsize=2)
def draws(images: int, resamples: int = RESAMPLES) -> Tensor:
    """Draw images with replacement: counts `[draws, images]`."""
    drawn = torch.randint(images, (resamples, images), generator=torch.Generator().manual_seed(0))
    return torch.zeros(resamples, images).scatter_add_(1, drawn, torch.ones(resamples, images))


def interval(resampled: Tensor) -> tuple[float, float]:
    """Take the middle 95% of a number's draws, `[draws]`."""
    low, high = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=resampled.dtype)).tolist()
    return low, high


def mean_change(ours: Sequence[float], base: Sequence[float]) -> Estimate:
    """Compare two means of shares over the same images, in percentage points."""
    differences = 100 * (torch.tensor(ours, dtype=torch.float64) - torch.tensor(base, dtype=torch.float64))
    resampled = draws(len(differences)).double() @ differences / len(differences)
    return Estimate(float(differences.mean()), *interval(resampled))


def means(values: Sequence[Sequence[Sequence[float]]]) -> list[Estimate]:
    """Average each column over all questions; of no question there is no mean.

    Args:
        values: `[images][questions of it][columns]`; images may have different numbers of questions, and none.
    """
    return _ratios([rows for rows in values if rows], lambda rows: torch.ones(len(rows), 1, dtype=torch.float64))


def shares_of_first(values: Sequence[Sequence[Sequence[float]]]) -> list[Estimate]:
    """Divide each column's sum by the first one's, where that has one; see `means`."""
    values = [rows for rows in values if rows]
    if not any(row[0] for rows in values for row in rows):
        return []
    return _ratios(values, lambda rows: rows[:, :1])


def _ratios(values: Sequence[Sequence[Sequence[float]]], base: Callable[[Tensor], Tensor]) -> list[Estimate]:
    """Divide the sums of columns by that of a base, `[questions, 1]` of each image."""
    if not values:
        return []
    per_image = [torch.tensor(rows, dtype=torch.float64) for rows in values]
    sums = torch.stack([rows.sum(0) for rows in per_image])  # [images, columns]
    bases = torch.stack([base(rows).sum(0) for rows in per_image])  # [images, 1]
    times = draws(len(per_image)).double()
    resampled = (times @ sums) / (times @ bases)
    whole = (sums.sum(0) / bases.sum()).tolist()
    there = (times @ bases).flatten() > 0  # a draw of images that have nothing of the base tells of no ratio
    return [Estimate(value, *interval(column)) for value, column in zip(whole, resampled[there].T, strict=True)]


def auc(signal: Tensor, positive: Tensor, times: Tensor) -> Tensor:
    """Compute areas under ROC curves, `[draws]`; a positive has less of the signal.

    Args:
        signal: `[questions]`; ties count half.
        positive: `[questions]`, bool.
        times: `[draws, questions]`, how often each question is in a draw.
    """
    values, place = signal.unique(return_inverse=True)
    positives, negatives = (
        torch.zeros(len(times), len(values)).index_add_(1, place[which], times[:, which])
        for which in (positive, ~positive)
    )
    more = negatives.sum(1, keepdim=True) - negatives.cumsum(1)
    return (positives * (more + negatives / 2)).sum(1) / (positives.sum(1) * negatives.sum(1))


def auc_with_interval(signal: Tensor, positive: Tensor, images: Sequence[int]) -> Estimate | None:
    """Compute an area and its interval; None if all questions are alike.

    Args:
        signal: `[questions]`.
        positive: `[questions]`, bool.
        images: which image each question is about, from 0 on.
    """
    if positive.all() or not positive.any():
        return None
    image = torch.tensor(images)
    times = draws(int(image.max()) + 1).split(_AT_ONCE)
    resampled = torch.cat([auc(signal, positive, part[:, image]) for part in times])
    area = float(auc(signal, positive, torch.ones(1, len(signal)))[0])
    return Estimate(area, *interval(resampled[~resampled.isnan()]))
