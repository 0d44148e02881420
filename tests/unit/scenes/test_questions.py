"""Every question has one right answer, and it is the one given."""

import random
import re
from collections import defaultdict

import pytest

from lookonce_scenes.questions import CATEGORIES, OPEN, YES_NO, find_objects, yes_no_pair
from lookonce_scenes.world import COLORS, KINDS, REGIONS, SHAPES, Scene, SceneObject, sample_scene

from .oracle import AmbiguousError, answer_to

SEEDS = range(400)


def circle(color: str, x: float, y: float, kind: str = "circle") -> SceneObject:
    return SceneObject(kind, color, "small", x, y, 7.0)


def test_the_oracle_refuses_a_question_about_one_of_several():
    scene = Scene((circle("red", 20, 20), circle("blue", 90, 20)), 0)
    with pytest.raises(AmbiguousError):
        answer_to(scene, "What color is the circle?")
    with pytest.raises(AmbiguousError):
        answer_to(scene, "Where is the green square?")


def test_every_category_can_be_asked_both_ways():
    assert tuple(YES_NO) == tuple(OPEN) == CATEGORIES


@pytest.mark.parametrize("category", CATEGORIES)
def test_yes_no_questions_are_true(category):
    answers = defaultdict(int)
    for seed in SEEDS:
        scene, rng = sample_scene(seed), random.Random(seed)
        for wanted in (True, False):
            if question := YES_NO[category](scene, rng, wanted):
                assert question.category == category
                assert answer_to(scene, question.text) == question.answer, (seed, question)
                answers[question.answer] += 1
    assert min(answers["Yes"], answers["No"]) > 80, answers


@pytest.mark.parametrize("category", CATEGORIES)
def test_open_questions_are_answered_right(category):
    answers = set()
    for seed in SEEDS:
        scene, rng = sample_scene(seed), random.Random(seed)
        for _ in range(3):
            if question := OPEN[category](scene, rng):
                assert question.category == category
                assert answer_to(scene, question.text) == question.answer, (seed, question)
                answers.add(question.answer)
    expected = {
        "count": {"0", "1", "2", "3", "4"},
        "position": set(REGIONS),
        "color": set(COLORS),
        "shape": set(KINDS),
        "size": {"small", "large"},
        "digit": {*"0123456789", "none"},
    }
    if category in expected:
        assert answers == expected[category]
    else:
        assert "nothing" in answers


def test_find_names_every_object_that_fits():
    hits = set()
    for seed in SEEDS:
        scene = sample_scene(seed)
        question = find_objects(scene, random.Random(seed))
        assert question.answer == answer_to(scene, question.text), (seed, question)
        hits.add(0 if question.answer == "nothing" else question.answer.count(" at the "))
    assert hits >= {0, 1, 2}


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_pair_is_one_yes_and_one_no(category):
    found = 0
    for seed in SEEDS:
        scene = sample_scene(seed)
        if pair := yes_no_pair(scene, category, random.Random(seed)):
            found += 1
            assert [q.answer for q in pair] == ["Yes", "No"]
            assert [answer_to(scene, q.text) for q in pair] == ["Yes", "No"]
            assert {q.category for q in pair} == {category}
        else:
            assert not _allows_pair(scene, category), scene
    assert found > 80


def _allows_pair(scene: Scene, category: str) -> bool:
    """Whether a scene must give a pair; the other categories may lack one only by their own rules below."""
    shapes = [o for o in scene.objects if o.kind in SHAPES]
    kinds, colors = [o.kind for o in scene.objects], [o.color for o in scene.objects]
    return {
        "color": any(kinds.count(o.kind) == 1 for o in shapes),
        "shape": any(colors.count(o.color) == 1 for o in shapes),
        "size": bool(shapes),
        "digit": any(kind.isdigit() for kind in kinds),
    }.get(category, True)


def test_the_same_random_stream_asks_the_same():
    scene = sample_scene(5, min_objects=3)
    for category in CATEGORIES:
        first, second = (yes_no_pair(scene, category, random.Random(1)) for _ in range(2))
        assert first == second


def test_every_category_is_asked_in_several_phrasings():
    words = "|".join([*COLORS, *(f"{k}s?" for k in SHAPES), r"\d", "small", "large", "one", "two", "three", "four"])
    phrasings = defaultdict(set)
    for seed in SEEDS:
        scene, rng = sample_scene(seed), random.Random(seed)
        for category in CATEGORIES:
            asked = (
                YES_NO[category](scene, rng, True),
                YES_NO[category](scene, rng, False),
                OPEN[category](scene, rng),
            )
            for question in filter(None, asked):
                text = re.sub("|".join(sorted(REGIONS, key=len, reverse=True)), "@", question.text)
                phrasings[category].add(re.sub(rf"\b({words})\b", "_", text))
    assert {category: len(found) >= 3 for category, found in phrasings.items()} == dict.fromkeys(CATEGORIES, True)
