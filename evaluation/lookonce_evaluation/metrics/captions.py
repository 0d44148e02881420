"""Descriptions of scenes: the objects that they name, their words, and F1.

An object is a kind (circle, 7) with the size and the colour that stand before it, and the place that is told behind it.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from lookonce_evaluation.model import EvalModel
from lookonce_scenes.world import COLORS, DIGITS, KINDS, REGIONS, SHAPES, SIZES, Scene

ATTRIBUTES = ("size", "color", "kind", "place")
_DIGIT = ("digit", "number")  # as in "a blue digit 7"
_TOKEN = re.compile(r"[^\W_]+|[^\w\s]")
_PLACE = re.compile(rf"\s+(?:at|in)\s+the\s+({'|'.join(sorted(REGIONS, key=len, reverse=True))})\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_PART = "\N{REPLACEMENT CHARACTER}"  # stands for a part of a character


class Mention(NamedTuple):
    """An object that a text names; a detail left out is empty."""

    size: str
    color: str
    kind: str
    place: str
    spans: dict[str, tuple[int, int]]  # by attribute, of the characters that tell it

    def __str__(self) -> str:
        bare = self.kind in DIGITS and not (self.size or self.color)
        return " ".join(filter(None, ("digit" if bare else self.size, self.color, self.kind)))

    def is_of(self, scene: Scene) -> int | None:
        """Find the object of a scene of which all that is told here is so."""
        for index, o in enumerate(scene.objects):
            facts = (o.size, o.color, o.kind, REGIONS[o.region])
            if all(named in ("", fact) for named, fact in zip(self[:4], facts, strict=True)):
                return index
        return None


def mentions(text: str) -> Iterator[Mention]:
    """Read the objects that a text names; any other word or sign ends a phrase.

    A digit that is not called one, and has no size or colour, is a count ("2") and no object.
    """
    attributes: dict[str, str] = {}
    spans: dict[str, tuple[int, int]] = {}
    is_digit = False  # whether one is announced
    for token in _TOKEN.finditer(text):
        word = token[0].lower()
        kind = word if word in KINDS else word.removesuffix("s")
        if kind in SHAPES or (kind in DIGITS and (attributes or is_digit)):
            spans["kind"] = token.span()
            if at := _PLACE.match(text, token.end()):
                attributes["place"], spans["place"] = at[1].lower(), at.span(1)
            size, color, place = (attributes.get(name, "") for name in ("size", "color", "place"))
            yield Mention(size, color, kind, place, spans)
        elif word in COLORS or word in SIZES:
            attribute = "color" if word in COLORS else "size"
            attributes[attribute], spans[attribute] = word, token.span()
            continue
        elif word in _DIGIT:
            is_digit = True
            continue
        attributes, spans, is_digit = {}, {}, False


class Word(NamedTuple):
    """A word of a description.

    The row that *generates* its first token is the one before it, whose logits gave it; the row that *reads* a token is
    the token's own.
    """

    text: str
    at: int  # of its first character
    tokens: range  # indices among the generated tokens


class Grounded(NamedTuple):
    """A word that is about an object of the scene, and is right."""

    word: Word
    kind: str  # of ATTRIBUTES
    object: int  # index among the scene's


class Reading(NamedTuple):
    """The objects of a description of a scene."""

    words: list[Grounded]  # of the mentions that are right, in the text's order
    mentions: int  # of an object with its colour
    right: int  # of them: such an object is there, and all that is said of it is so


def spell(model: EvalModel, tokens: list[int]) -> tuple[str, list[Word]]:
    """Find the words that tokens spell; a token may belong to two."""
    texts = [model.text(tokens[:count]) for count in range(len(tokens) + 1)]
    # A token may end within a character: it spells that character too, as does the next one.
    spans = [(len(before.rstrip(_PART)), len(after)) for before, after in pairwise(texts)]
    words = []
    for match in _WORD.finditer(texts[-1]):
        spelling = [i for i, (start, end) in enumerate(spans) if start < match.end() and end > match.start()]
        words.append(Word(match.group(), match.start(), range(spelling[0], spelling[-1] + 1)))
    return texts[-1], words


def ground(text: str, spelled: list[Word], scene: Scene) -> Reading:
    """Find a scene's objects in its description.

    An object is named by its colour and kind, which no other of the scene has both of. Where anything said of it is
    wrong, none of the mention's words is taken: where a word should look that is not true is not known.
    """
    named = [mention for mention in mentions(text) if mention.color]
    indices = [mention.is_of(scene) for mention in named]
    words = [
        Grounded(word, attribute, index)
        for mention, index in zip(named, indices, strict=True)
        if index is not None
        for attribute, (start, end) in mention.spans.items()
        for word in spelled
        if start <= word.at < end
    ]
    right = sum(index is not None for index in indices)
    return Reading(sorted(words, key=lambda grounded: grounded.word.at), len(named), right)


class Score(NamedTuple):
    """How an altered description stands to its original."""

    tp: int  # objects of both
    fp: int  # of the altered one alone
    fn: int  # of the original alone

    @property
    def precision(self) -> float:
        """Return the share of the altered objects that the original names."""
        return self.tp / max(self.tp + self.fp, 1)

    @property
    def recall(self) -> float:
        """Return the share of the original objects that are kept."""
        return self.tp / max(self.tp + self.fn, 1)

    @property
    def f1(self) -> float:
        """Return the harmonic mean; 0 if neither description names an object."""
        return 2 * self.tp / max(2 * self.tp + self.fp + self.fn, 1)
