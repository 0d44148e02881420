"""Questions in other words are answered right, both ways, and no phrasing gives its answer away."""

import random
import re
from collections import Counter, defaultdict

import pytest

from lookonce_scenes.phrasings import (
    FOREIGN_WORDS,
    MORE_OPEN,
    MORE_YES_NO,
    describe_again,
    draw_question,
    noun_for,
)
from lookonce_scenes.questions import YES_NO
from lookonce_scenes.speech import say
from lookonce_scenes.world import DIGITS, NARROW, REGIONS, WIDE, sample_scene

from .oracle import answer_to

SEEDS = range(500)
SCENES = [sample_scene(seed, world=WIDE if seed % 2 else NARROW) for seed in SEEDS]


@pytest.mark.parametrize("name", MORE_YES_NO)
def test_yes_no_questions_are_true_and_as_wanted(name):
    answers = Counter()
    for seed, scene in enumerate(SCENES):
        for wanted in (True, False):
            if question := MORE_YES_NO[name](scene, random.Random(seed), wanted):
                assert question.answer == ("Yes" if wanted else "No")
                assert answer_to(scene, question.text) == question.answer, (seed, question)
                answers[question.answer] += 1
    assert min(answers["Yes"], answers["No"]) > 60, answers


@pytest.mark.parametrize("name", MORE_OPEN)
def test_open_questions_are_answered_right(name):
    answers = set()
    for seed, scene in enumerate(SCENES):
        if question := MORE_OPEN[name](scene, random.Random(seed)):
            assert answer_to(scene, question.text) == question.answer, (seed, question)
            assert question.answer
            answers.add(question.answer)
    assert len(answers) > 1
    assert name != "position" or answers == set(REGIONS)


def test_the_image_is_described_again():
    assert all(describe_again(scene, random.Random(1)).answer == scene.caption for scene in SCENES[:20])


def test_things_that_no_scene_shows_are_asked_for_and_are_not_there():
    nouns = [noun_for(scene, random.Random(seed), there=False) for seed, scene in enumerate(SCENES)]
    assert 0.1 < sum(noun in FOREIGN_WORDS for noun in nouns) / len(nouns) < 0.3
    assert not set(FOREIGN_WORDS) & {*WIDE.kinds, *WIDE.colors}


def phrasing(text: str) -> str:
    """A question without what differs from scene to scene."""
    text = re.sub("|".join(sorted(REGIONS, key=len, reverse=True)), "@", text)
    words = {*WIDE.colors, *WIDE.shapes, *DIGITS, *FOREIGN_WORDS, "outlined", "filled", "digit", "object", "shape"}
    return re.sub(rf"\b(?:(?:small|large) )?(?:(?:{'|'.join(words)})(?:s\b|\b) ?)+", "_ ", text)


def test_yes_and_no_are_balanced_in_each_phrasing():
    """What is asked in one way must be yes about as often as no, or the model learns the words, not the picture."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for seed in range(4000):
        scene, rng = sample_scene(seed, world=WIDE if seed % 2 else NARROW), random.Random(seed)
        for _ in range(12):
            if (question := draw_question(scene, rng)) and question.answer in ("Yes", "No"):
                answers[phrasing(question.text)][question.answer] += 1
    often = {text: count for text, count in answers.items() if count.total() > 100}
    assert len(often) > 25
    shares = {text: count["Yes"] / count.total() for text, count in often.items()}
    assert {text: share for text, share in shares.items() if not 0.35 < share < 0.65} == {}


def test_questions_are_said_politely_and_carelessly_and_mean_the_same():
    rng, forms = random.Random(0), Counter()
    for seed in range(1500):
        scene = SCENES[seed % len(SCENES)]
        if not (question := draw_question(scene, rng)):
            continue
        said = say(question.text, rng)
        forms["same" if said == question.text else "lower" if said[0].islower() else "other"] += 1
        core = question.text.rstrip("?.").lower()
        reported = re.search(r"\b(?:tell me|say|know) ((?:what|which|where|how many|whether|if) .+)[?.]", said)
        words = set(re.findall(r"\w+", reported[1])) if reported else set()
        assert core in said.lower() or words <= set(re.findall(r"\w+", core)) | {"whether", "if"}, said
    assert forms["same"] > 0.6 * forms.total()
    assert forms["other"] > 0.1 * forms.total()


def test_the_askers_of_the_narrow_world_answer_right_in_the_wide_one():
    for seed, scene in enumerate(SCENES[1::2]):
        for asker in YES_NO.values():
            if question := asker(scene, random.Random(seed), True):
                assert answer_to(scene, question.text) == question.answer, (seed, question)
