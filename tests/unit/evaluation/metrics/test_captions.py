"""Which objects a description names, which tokens a word is made of, and which object it is about."""

import pytest

from lookonce_evaluation.metrics.captions import Score, ground, mentions, spell
from lookonce_scenes.world import REGIONS, Scene, SceneObject, sample_scene

STAR = SceneObject("star", "purple", "large", 56, 10, 12)  # top center
SQUARE = SceneObject("square", "blue", "small", 10, 100, 7)  # bottom left
SEVEN = SceneObject("7", "blue", "large", 100, 56, 12)  # center right
SCENE = Scene((STAR, SEVEN, SQUARE), 1)


@pytest.fixture
def reading(model):
    def read(text):
        return ground(*spell(model, model.tokenizer.encode(text, add_special_tokens=False)), SCENE)

    return read


def told(reading):
    return [(grounded.word.text, grounded.kind, grounded.object) for grounded in reading.words]


def test_precision_recall_and_f1_are_those_of_the_counts():
    counted = Score(tp=3, fp=1, fn=3)
    assert (counted.precision, counted.recall) == (0.75, 0.5)
    assert counted.f1 == pytest.approx(0.6)
    assert [Score(0, 0, 0).f1, Score(0, 0, 2).f1, Score(0, 2, 0).f1] == [0, 0, 0]  # nothing named, nothing survived
    assert Score(0, 0, 2).precision == Score(0, 2, 0).recall == 0


def test_a_caption_tells_its_scenes_objects_and_where_it_tells_them():
    for seed in range(600_000_000, 600_000_040):
        scene = sample_scene(seed)
        found = list(mentions(scene.caption))
        assert [mention[:4] for mention in found] == [
            (o.size, o.color, o.kind, REGIONS[o.region]) for o in scene.objects
        ]
        assert [mention.is_of(scene) for mention in found] == list(range(len(scene.objects)))
        for mention in found:
            for attribute, (start, end) in mention.spans.items():
                assert scene.caption[start:end].lower() == getattr(mention, attribute)


TEXTS = (
    "A large purple star.",
    "Turquoise? Zebra's don't-know, 17 of them",
    "süße Äpfel 你好 🎈 red",
    " x  y ",
    "",
    "...",
)


def test_a_words_tokens_spell_it(model):
    for text in TEXTS:
        ids = model.tokenizer.encode(text, add_special_tokens=False)
        _, words = spell(model, ids)
        assert [word.text for word in words] == [part.strip(".,?") for part in text.split() if part.strip(".,?🎈")]
        for word in words:
            assert model.tokenizer.decode(ids[word.tokens.start : word.tokens.stop]).strip(" .,?") == word.text
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
