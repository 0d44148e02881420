"""What a judge does, and the counts that are made of it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Match(NamedTuple):
    """Two mentions of one object, as indices of the two lists."""

    original: int
    altered: int


class Judge(Protocol):
    """Lists the objects that a description names, and tells which of two lists are the same ones."""

    def objects(self, description: str) -> list[str]:
        """The objects named, each once, in words; none for a description that names none."""
        ...

    def match(self, original: Sequence[str], altered: Sequence[str]) -> list[Match]:
        """The pairs that are the same object; no object of either list is in two of them."""
        ...


class Score(NamedTuple):
    """How an altered description stands to its original."""

    tp: int  # objects of both
    fp: int  # of the altered one alone
    fn: int  # of the original alone

    @property
    def precision(self) -> float:
        """Share of the altered description's objects that the original names; 0 where it names none."""
        return self.tp / max(self.tp + self.fp, 1)

    @property
    def recall(self) -> float:
        """Share of the original's objects that the altered description names; 0 where there are none."""
        return self.tp / max(self.tp + self.fn, 1)

    @property
    def f1(self) -> float:
        """Their harmonic mean; 0 where neither description names an object, for then nothing was seen to survive."""
        return 2 * self.tp / max(2 * self.tp + self.fp + self.fn, 1)


def score(judge: Judge, original: str, altered: str) -> Score:
    """Judge an altered description by its original."""
    return compare(judge, judge.objects(original), judge.objects(altered))


def compare(judge: Judge, original: Sequence[str], altered: Sequence[str]) -> Score:
    """Judge lists of objects: of two descriptions, or of a description and the truth."""
    tp = len(judge.match(original, altered))
    return Score(tp, len(altered) - tp, len(original) - tp)
