"""ACC, ACC+ and exact answers, as MME (Fu et al., arXiv 2306.13394), paired."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from lookonce_evaluation.data.mme import Entry
from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.methods import ImageRun, Method
from lookonce_evaluation.metrics.bootstrap import Estimate, draws, interval
from lookonce_evaluation.model import EvalModel, PreparedCache
from lookonce_scenes.questions import CATEGORIES, Question

KINDS = {"acc": "ACC", "acc+": "ACC+", "open": "open"}
Item = Case | Entry
Grade = Callable[[PreparedCache, list[Question]], Sequence[bool]]


class Outcomes:
    """Count right answers by image; measures are means over the categories."""

    def __init__(self, categories: Sequence[str] = CATEGORIES) -> None:
        self.categories = tuple(categories)
        self._counts: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}

    @classmethod
    def pooled(cls, several: "Sequence[Outcomes]") -> Self:
        """Add several methods up, those of one name by seed."""
        pool = cls(several[0].categories)
        for kind, counts in pool._counts.items():
            images = zip(*(outcomes._counts[kind] for outcomes in several), strict=True)
            counts += [torch.stack(image).sum(0) for image in images]
        return pool

    @classmethod
    def of(cls, cases: Sequence[Item], right: Iterable[Iterable[bool]]) -> Self:
        """Count the grades of images with the scenes' categories."""
        outcomes = cls()
        for case, grades in zip(cases, right, strict=True):
            outcomes.add(case, grades)
        return outcomes

    def add(self, case: Item, right: Iterable[bool]) -> None:
        """Take the grades of one image, in the order of `Case.questions`."""
        counts = {kind: torch.zeros(2, len(self.categories)) for kind in KINDS}  # right, asked; by category
        grades = iter(right)
        for column in map(self.categories.index, case.pairs):
            yes, no = next(grades), next(grades)
            counts["acc"][:, column] = torch.tensor([yes + no, 2])
            counts["acc+"][:, column] = torch.tensor([yes and no, 1])
        for column in map(self.categories.index, case.open):
            counts["open"][:, column] = torch.tensor([next(grades), 1])
        for kind, count in counts.items():
            self._counts[kind].append(count)

    @property
    def kinds(self) -> list[str]:
        """Those of KINDS that anything was asked for."""
        return [kind for kind, counts in self._counts.items() if any(count[1].any() for count in counts)]

    def percent(self, kind: str) -> float:
        """Compute ACC, ACC+ or the share of exact answers."""
        counts = torch.stack(self._counts[kind])
        return float(_macro(counts, torch.ones(1, len(counts)))[0])

    def by_category(self, kind: str) -> dict[str, float]:
        """Compute the same of each category that was asked about, in percent."""
        right, asked = torch.stack(self._counts[kind]).sum(0)
        shares = zip(self.categories, (100 * right / asked).tolist(), asked.tolist(), strict=True)
        return {category: share for category, share, count in shares if count}

    def change(self, base: "Outcomes", kind: str) -> Estimate:
        """Compare with another method, by a paired bootstrap over images."""
        ours, theirs = torch.stack(self._counts[kind]), torch.stack(base._counts[kind])
        times = draws(len(ours))
        low, high = interval(_macro(ours, times) - _macro(theirs, times))
        return Estimate(self.percent(kind) - base.percent(kind), low, high)


def _macro(counts: Tensor, times: Tensor) -> Tensor:
    """Percent right, mean over the categories asked, `[draws]`.

    Args:
        counts: `[images, 2, categories]`, right and asked.
        times: `[draws, images]`, how often each image is in a draw.
    """
    right, asked = (times @ counts[:, i] for i in (0, 1))
    return 100 * (right / asked).nanmean(-1)


class Row(NamedTuple):
    """The outcomes of the methods of one name and retention, by seed."""

    name: str
    retention: float | None
    tokens: float  # in context before the question, mean
    bytes: float  # of keys and values, mean
    seeds: list[Outcomes]
    outcomes: Outcomes  # of all seeds

    def as_json(self, full: Outcomes) -> dict[str, Any]:
        """Write everything; differences are to the full pass."""
        kinds = {
            kind: {
                "percent": self.outcomes.percent(kind),
                "to full pass": dict(zip(("difference", "low", "high"), self.outcomes.change(full, kind), strict=True)),
                "by category": self.outcomes.by_category(kind),
                "by seed": [outcomes.percent(kind) for outcomes in self.seeds],
            }
            for kind in self.outcomes.kinds
        }
        return {"name": self.name, "retention": self.retention, "tokens": self.tokens, "bytes": self.bytes, **kinds}


def record(model: EvalModel, case: Case, methods: Sequence[Method], grade: Grade) -> list[Any]:
    """Record an image by method: tokens and bytes in context, and the grades."""
    run, records = ImageRun(model, case), []
    for method in methods:
        cache = method.prepare(run)
        right = "".join("01"[verdict] for verdict in grade(cache, case.questions))
        records.append({"tokens": cache.tokens, "bytes": cache.bytes, "right": right})
    return records


def rows_of(
    cases: Sequence[Item], methods: Sequence[Method], records: Sequence[Any], categories: Sequence[str]
) -> list[Row]:
    """Put the images of the categories together, by method."""
    images = [pair for pair in zip(cases, records, strict=True) if {*pair[0].pairs, *pair[0].open} & {*categories}]
    by_name: dict[tuple[str, float | None], list[int]] = {}
    for place, method in enumerate(methods):
        by_name.setdefault((method.name, method.retention), []).append(place)
    rows = []
    for (name, share), places in by_name.items():
        seeds = [Outcomes(categories) for _ in places]
        for place, outcomes in zip(places, seeds, strict=True):
            for case, image in images:
                outcomes.add(case, [right == "1" for right in image[place]["right"]])
        tokens, size = (
            sum(image[place][what] for _, image in images for place in places) / len(images) / len(places)
            for what in ("tokens", "bytes")
        )
        rows.append(Row(name, share, tokens, size, seeds, Outcomes.pooled(seeds)))
    return rows
