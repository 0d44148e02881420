"""Which tokens a word is made of, and which object it is about."""

import pytest

from lookonce_evaluation.grounding.words import read, words_of
from lookonce_scenes.tokenizer import build_tokenizer
from lookonce_scenes.world import Scene, SceneObject

STAR = SceneObject("star", "purple", "large", 56, 10, 12)  # top center
SQUARE = SceneObject("square", "blue", "small", 10, 100, 7)  # bottom left
SEVEN = SceneObject("7", "blue", "large", 100, 56, 12)  # center right
SCENE = Scene((STAR, SEVEN, SQUARE), 1)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def reading(tokenizer):
    def made(text):
        return read(text, words_of(tokenizer, tokenizer.encode(text, add_special_tokens=False)), SCENE)

    return made


def told(reading):
    return [(one.word.text, one.kind, one.object) for one in reading.words]


@pytest.mark.parametrize(
    "text",
    [
        "A large purple star.",
        "Turquoise? Zebra's don't-know, 17 of them",
        "süße Äpfel 你好 🎈 red",
        " x  y ",
        "",
        "...",
    ],
)
def test_a_words_tokens_spell_it(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    words = words_of(tokenizer, ids)
    assert [word.text for word in words] == [one.strip(".,?") for one in text.split() if one.strip(".,?🎈")]
    for word in words:
        assert tokenizer.decode(ids[word.tokens.start : word.tokens.stop]).strip(" .,?") == word.text
        assert text[word.at :].startswith(word.text)


def test_each_word_belongs_to_the_object_that_it_is_said_of(reading):
    found = reading("A large purple star at the top center, a small blue square at the bottom left.")
    star = [
        ("large", "size", 0),
        ("purple", "color", 0),
        ("star", "kind", 0),
        ("top", "place", 0),
        ("center", "place", 0),
    ]
    square = [
        ("small", "size", 2),
        ("blue", "color", 2),
        ("square", "kind", 2),
        ("bottom", "place", 2),
        ("left", "place", 2),
    ]
    assert told(found) == star + square
    assert (found.mentions, found.right) == (2, 2)


def test_words_of_objects_that_are_described_wrongly_are_left_out(reading):
    found = reading(
        "A small purple star at the top center, a large blue 7 at the center left, a red star, a blue square."
    )
    assert told(found) == [("blue", "color", 2), ("square", "kind", 2)]
    assert (found.mentions, found.right) == (4, 1)


def test_other_ways_to_say_it(reading):
    assert told(reading("There is a Blue digit 7 in the center right of it")) == [
        ("Blue", "color", 1),
        ("7", "kind", 1),
        ("center", "place", 1),
        ("right", "place", 1),
    ]
    assert told(reading("Seventy-7 blue 70 bluestars; red, star. purple: star")) == []
    assert told(reading("")) == []
