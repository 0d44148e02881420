"""The words of a description: which tokens they are made of, and, in a drawn scene, which object each is about."""

import re
from itertools import pairwise
from typing import Any, NamedTuple

from lookonce_scenes.world import COLORS, KINDS, REGIONS, SIZES, Scene

CLASSES = ("size", "color", "kind", "place")
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_PART = "\N{REPLACEMENT CHARACTER}"  # stands for a part of a character


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
    kind: str  # of CLASSES
    object: int  # index among the scene's


class Reading(NamedTuple):
    """What a description says of a scene."""

    words: list[Grounded]  # of the mentions that are right, in the text's order
    mentions: int  # of an object with its colour
    right: int  # of them: such an object is there, and all that is said of it is so


def words_of(tokenizer: Any, said: list[int]) -> list[Word]:
    """The words that tokens spell; a token that spells parts of two words belongs to both."""
    texts = [tokenizer.decode(said[:count]) for count in range(len(said) + 1)]
    # A token may end within a character: it spells that character too, as does the next one.
    spans = [(len(before.rstrip(_PART)), len(after)) for before, after in pairwise(texts)]
    found = []
    for match in _WORD.finditer(texts[-1]):
        tokens = [i for i, (start, end) in enumerate(spans) if start < match.end() and end > match.start()]
        found.append(Word(match.group(), match.start(), range(tokens[0], tokens[-1] + 1)))
    return found


def _any_of(names: tuple[str, ...]) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


_MENTION = re.compile(
    rf"(?:\b(?P<size>{_any_of(SIZES)})\s+)?\b(?P<color>{_any_of(tuple(COLORS))})\s+(?:(?:digit|number)\s+)?"
    rf"(?P<kind>{_any_of(KINDS)})\b(?:\s+(?:at|in)\s+the\s+(?P<place>{_any_of(REGIONS)})\b)?",
    re.IGNORECASE,
)


def read(text: str, words: list[Word], scene: Scene) -> Reading:
    """Find a scene's objects in its description.

    An object is named by its colour and kind, which no other of the scene has both of. Where anything said of it is
    wrong, none of the mention's words is taken: where a word should look that is not true is not known.
    """
    mentions = list(_MENTION.finditer(text))
    found, right = [], 0
    for mention in mentions:
        index = _named(mention, scene)
        if index is None:
            continue
        right += 1
        for kind in CLASSES:
            start, end = mention.span(kind)
            found += [Grounded(word, kind, index) for word in words if start <= word.at < end]
    return Reading(sorted(found, key=lambda one: one.word.at), len(mentions), right)


def _named(mention: re.Match[str], scene: Scene) -> int | None:
    """The object that a mention is about, if all that it says of it is so."""
    said = {kind: text.lower() for kind, text in mention.groupdict().items() if text}
    for index, one in enumerate(scene.objects):
        true = {"size": one.size, "color": one.color, "kind": one.kind, "place": REGIONS[one.region]}
        if all(true[kind] == text for kind, text in said.items()):
            return index
    return None
