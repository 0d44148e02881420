"""A judge that needs no language model, for descriptions of drawn scenes."""

from collections.abc import Sequence

from lookonce_evaluation.metrics.captions import mentions
from lookonce_evaluation.tasks.judge.verdicts import Match, one_to_one

RULES = "rules"


class RuleJudge:
    """Reads the scenes' words, and no others, see `captions.mentions`. The same words again are the same object.

    Two mentions match when the kinds are equal and the colours do not differ: no two objects of a scene have the same
    kind and colour. A colour that is left out fits any. Sizes and places are details, and do not count.

    Args:
        ignore_colors: whether objects of different colours match too, as in the paper's protocol.
    """

    def __init__(self, *, ignore_colors: bool = False) -> None:
        self._ignore_colors = ignore_colors
        self.identity = {"judge": RULES, "ignore_colors": ignore_colors}
        self.refused: list[str] = []

    def objects(self, description: str) -> list[str]:
        """List phrases such as "large purple star", in the order of the text."""
        return list(dict.fromkeys(map(str, mentions(description))))

    def match(self, original: Sequence[str], altered: Sequence[str]) -> list[Match]:
        """Make as many pairs as there can be: with both colours told first, with none told last."""
        pairs = [
            (bool(a.color) + bool(b.color), Match(i, j))
            for i, ours in enumerate(original)
            for j, theirs in enumerate(altered)
            for a in mentions(ours)
            for b in mentions(theirs)
            if a.kind == b.kind and (self._ignore_colors or a.color == b.color or not (a.color and b.color))
        ]
        return one_to_one([pair for _, pair in sorted(pairs, key=lambda ranked: -ranked[0])])
