"""What a judge does, the verdicts made of it, and verdicts on many images put together."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from lookonce_evaluation.metrics.bootstrap import Estimate, mean_change
from lookonce_evaluation.metrics.captions import Score

COLUMNS = ("TP", "FN", "FP", "precision", "recall", "F1")


class Match(NamedTuple):
    """Two mentions of one object, as indices of the two lists."""

    original: int
    altered: int


class Judge(Protocol):
    """Lists the objects that a description names, and tells which of two lists are the same ones."""

    identity: dict[str, Any]  # JSON: what its verdicts depend on; no key is in it
    refused: list[str]  # options that its endpoint did not take

    def objects(self, description: str) -> list[str]:
        """List the objects named, each once, in words; none for a description that names none."""
        ...

    def match(self, original: Sequence[str], altered: Sequence[str]) -> list[Match]:
        """Pair the same objects; no object of either list is in two pairs."""
        ...


def one_to_one(pairs: Sequence[Match]) -> list[Match]:
    """Leave out pairs that share an object with an earlier one."""
    matches: list[Match] = []
    for pair in pairs:
        if all(pair.original != m.original and pair.altered != m.altered for m in matches):
            matches.append(pair)
    return sorted(matches)


def compare(judge: Judge, original: Sequence[str], altered: Sequence[str]) -> Score:
    """Judge lists of objects: of two descriptions, or of a description and the truth."""
    tp = len(judge.match(original, altered))
    return Score(tp, len(altered) - tp, len(original) - tp)


def score(judge: Judge, original: str, altered: str) -> Score:
    """Judge an altered description by its original."""
    return compare(judge, judge.objects(original), judge.objects(altered))


def verdict(judge: Judge, text: str, original: Sequence[str], there: Sequence[str] | None) -> dict[str, Any]:
    """Judge an altered description, as a record.

    Args:
        judge: who judges.
        text: the altered description.
        original: the original's objects.
        there: those that are in the picture, where that is known.
    """
    objects = judge.objects(text)
    seen = None if there is None else compare(judge, there, objects)
    return {"text": text, "objects": objects, "counts": compare(judge, original, objects), "against_scene": seen}


class Summary(NamedTuple):
    """What became of the descriptions of many images; means over the images, in percent."""

    images: int
    counts: Score  # summed
    precision: float
    recall: float
    f1: Estimate

    @classmethod
    def of(cls, scores: Sequence[Score]) -> "Summary":
        """Put the scores of one image or more together."""
        counts = Score(*(sum(column) for column in zip(*scores, strict=True)))
        images = len(scores)
        precision = 100 * sum(s.precision for s in scores) / images
        recall = 100 * sum(s.recall for s in scores) / images
        return cls(images, counts, precision, recall, mean_change([s.f1 for s in scores], [0.0] * images))

    @property
    def cells(self) -> list[str]:
        """The cells of COLUMNS."""
        c = self.counts
        return [str(c.tp), str(c.fn), str(c.fp), f"{self.precision:.1f}", f"{self.recall:.1f}", self.f1.shown(1)]

    def as_json(self) -> dict[str, Any]:
        """Write it for a file."""
        shares = {"precision": self.precision, "recall": self.recall, "f1": self.f1.value}
        rounded = {name: round(value, 2) for name, value in shares.items()}
        return {"images": self.images, **self.counts._asdict(), **rounded, "f1_95": [round(v, 2) for v in self.f1[1:]]}
