"""A judge that needs no language model, for descriptions of drawn scenes."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lookonce_evaluation.judge.protocol import Match
from lookonce_scenes.world import COLORS, DIGITS, KINDS, SHAPES, SIZES, Scene

_DIGIT = ("digit", "number")  # as in "a blue digit 7"


class _Named(NamedTuple):
    size: str
    color: str
    kind: str

    def __str__(self) -> str:
        bare = self.kind in DIGITS and not (self.size or self.color)
        return " ".join(filter(None, ("digit" if bare else self.size, self.color, self.kind)))


class RuleJudge:
    """Reads the scenes' words, and no others.

    An object is a kind (circle, 7) with the size and the colour that stand before it, where they do; what else is said,
    its place too, is passed over, and so is text in which no kind stands. A digit that is not called one, and has no
    size or colour, is a count ("2") and no object. The same words again are the same object.

    Two mentions match when the kinds are equal and the colours do not differ: no two objects of a scene have the same
    kind and colour. A colour that is left out fits any. Sizes and places are details, and do not count.

    Args:
        ignore_colors: whether objects of different colours match too, as in the paper's protocol.
    """

    def __init__(self, *, ignore_colors: bool = False) -> None:
        self._ignore_colors = ignore_colors

    def objects(self, description: str) -> list[str]:
        """Phrases such as "large purple star", in the order of the text."""
        return list(dict.fromkeys(map(str, _named(description))))

    def match(self, original: Sequence[str], altered: Sequence[str]) -> list[Match]:
        """As many pairs as there can be: with both colours told first, with none told last."""
        pairs = [
            (bool(a.color) + bool(b.color), Match(i, j))
            for i, one in enumerate(original)
            for j, other in enumerate(altered)
            for a in _named(one)
            for b in _named(other)
            if a.kind == b.kind and (self._ignore_colors or a.color == b.color or not (a.color and b.color))
        ]
        matches: list[Match] = []
        for _, pair in sorted(pairs, key=lambda found: -found[0]):
            if all(pair.original != m.original and pair.altered != m.altered for m in matches):
                matches.append(pair)
        return sorted(matches)


def truth(scene: Scene) -> list[str]:
    """The objects of a scene, as a judge lists them."""
    return [o.phrase for o in scene.objects]


def _named(text: str) -> Iterator[_Named]:
    """The objects that a text names; any other word, and any sign, parts an adjective from what follows."""
    size = color = ""
    digit = False  # whether one is announced
    for word in re.findall(r"[^\W_]+|[^\w\s]", text.lower()):
        kind = word if word in KINDS else word.removesuffix("s")
        if kind in SHAPES or (kind in DIGITS and (size or color or digit)):
            yield _Named(size, color, kind)
        elif word in COLORS:
            color = word
            continue
        elif word in SIZES:
            size = word
            continue
        elif word in _DIGIT:
            digit = True
            continue
        size = color = ""
        digit = False
