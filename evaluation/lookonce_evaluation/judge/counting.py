"""Verdicts on many images put together: the counts, and the means over the images."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from lookonce_evaluation.judge.protocol import Judge, Score, compare
from lookonce_evaluation.paired import Interval, mean_change


class Summary(NamedTuple):
    """What became of the descriptions of many images; means over the images, in percent."""

    images: int
    counts: Score  # summed
    precision: float
    recall: float
    f1: Interval  # and its 95% interval

    @classmethod
    def of(cls, scores: Sequence[Score]) -> "Summary":
        """Of one image at least."""
        counts = Score(*(sum(column) for column in zip(*scores, strict=True)))
        images = len(scores)
        precision = 100 * sum(s.precision for s in scores) / images
        recall = 100 * sum(s.recall for s in scores) / images
        return cls(images, counts, precision, recall, mean_change([s.f1 for s in scores], [0.0] * images))

    @property
    def cells(self) -> list[str]:
        """For a table: TP, FN, FP, precision, recall, F1."""
        c, f1 = self.counts, self.f1
        shares = [f"{self.precision:.1f}", f"{self.recall:.1f}", f"{f1.difference:.1f} ({f1.low:.1f} to {f1.high:.1f})"]
        return [str(c.tp), str(c.fn), str(c.fp), *shares]

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        shares = {"precision": self.precision, "recall": self.recall, "f1": self.f1.difference}
        rounded = {name: round(value, 2) for name, value in shares.items()}
        return {"images": self.images, **self.counts._asdict(), **rounded, "f1_95": [round(v, 2) for v in self.f1[1:]]}


COLUMNS = ("TP", "FN", "FP", "precision", "recall", "F1")


def verdict(judge: Judge, text: str, original: Sequence[str], there: Sequence[str] | None) -> dict[str, Any]:
    """What a judge finds in an altered description, as a record.

    Args:
        judge: who judges.
        text: the altered description.
        original: the original's objects.
        there: those that are in the picture, where that is known.
    """
    found = judge.objects(text)
    seen = None if there is None else compare(judge, there, found)
    return {"text": text, "objects": found, "counts": compare(judge, original, found), "against_scene": seen}
