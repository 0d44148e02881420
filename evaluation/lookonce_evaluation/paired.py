"""Right and wrong answers of two ways to answer the same questions, and how sure their difference is."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from lookonce_scenes.questions import CATEGORIES

RESAMPLES = 2000


class Asked(Protocol):
    """What is asked about one image, as a `Case` tells it."""

    @property
    def pairs(self) -> Mapping[str, Any]:
        """Two yes/no questions a category."""

    @property
    def open(self) -> Mapping[str, Any]:
        """One open question a category."""


class Interval(NamedTuple):
    """A difference in percentage points and its 95% interval."""

    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.difference:+z.2f} ({self.low:+z.2f} to {self.high:+z.2f})"


class Outcomes:
    """What was right, image by image. The measure is the mean over categories of the share that was right.

    Args:
        categories: those that are asked about.
    """

    def __init__(self, categories: Sequence[str] = CATEGORIES) -> None:
        self.categories = tuple(categories)
        self._counts: dict[str, list[Tensor]] = {"acc": [], "acc+": [], "open": []}

    @classmethod
    def pooled(cls, several: "Sequence[Outcomes]") -> Self:
        """Those of several ways to answer the same questions, a seeded one's say, as if each had been asked of all."""
        made = cls(several[0].categories)
        for kind, counts in made._counts.items():
            images = zip(*(one._counts[kind] for one in several), strict=True)
            counts += [torch.stack(image).sum(0) for image in images]
        return made

    def add(self, case: Asked, right: Iterable[bool]) -> None:
        """Take the grades of one image, in the order of `Case.questions`."""
        counts = {kind: torch.zeros(2, len(self.categories)) for kind in self._counts}  # right, asked; by category
        grades = iter(right)
        for column in map(self.categories.index, case.pairs):
            yes, no = next(grades), next(grades)
            counts["acc"][:, column] = torch.tensor([yes + no, 2])
            counts["acc+"][:, column] = torch.tensor([yes and no, 1])
        for column in map(self.categories.index, case.open):
            counts["open"][:, column] = torch.tensor([next(grades), 1])
        for kind, found in counts.items():
            self._counts[kind].append(found)

    @property
    def kinds(self) -> list[str]:
        """Those of "acc", "acc+" and "open" that anything was asked for."""
        return [kind for kind, counts in self._counts.items() if any(found[1].any() for found in counts)]

    def percent(self, kind: str) -> float:
        """ACC, ACC+ or the share of exact answers: "acc", "acc+" or "open"."""
        counts = torch.stack(self._counts[kind])
        return float(_macro(counts, torch.ones(1, len(counts)))[0])

    def by_category(self, kind: str) -> dict[str, float]:
        """The same of each category that was asked about, in percent."""
        right, asked = torch.stack(self._counts[kind]).sum(0)
        shares = zip(self.categories, (100 * right / asked).tolist(), asked.tolist(), strict=True)
        return {category: share for category, share, count in shares if count}

    def change(self, base: "Outcomes", kind: str) -> Interval:
        """The difference to another way's, with a paired bootstrap over images."""
        ours, theirs = torch.stack(self._counts[kind]), torch.stack(base._counts[kind])
        times = draws(len(ours))
        low, high = _middle(_macro(ours, times) - _macro(theirs, times))
        return Interval(self.percent(kind) - base.percent(kind), low, high)


def mean_change(ours: Sequence[float], base: Sequence[float]) -> Interval:
    """The difference of two means over the same images, in percentage points of values from 0 to 1; paired likewise."""
    differences = 100 * (torch.tensor(ours, dtype=torch.float64) - torch.tensor(base, dtype=torch.float64))
    low, high = _middle(draws(len(differences)).double() @ differences / len(differences))
    return Interval(float(differences.mean()), low, high)


@lru_cache(maxsize=1)
def draws(images: int) -> Tensor:
    """How often each image is in each of the bootstrap's draws, `[draws, images]`."""
    drawn = torch.randint(images, (RESAMPLES, images), generator=torch.Generator().manual_seed(0))
    return torch.zeros(RESAMPLES, images).scatter_add_(1, drawn, torch.ones(RESAMPLES, images))


def _middle(differences: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(differences, torch.tensor([0.025, 0.975], dtype=differences.dtype)).tolist()
    return low, high


def _macro(counts: Tensor, times: Tensor) -> Tensor:
    """Percent right, mean over the categories asked, `[draws]`.

    Args:
        counts: `[images, 2, categories]`, right and asked.
        times: `[draws, images]`, how often each image is in a draw.
    """
    right, asked = (times @ counts[:, i] for i in (0, 1))
    return 100 * (right / asked).nanmean(-1)
