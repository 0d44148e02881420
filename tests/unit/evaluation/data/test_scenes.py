"""Held-out questions are the same for everybody, and no training has seen their scenes."""

from collections import Counter

import numpy as np

from lookonce_evaluation.data.scenes import HELD_OUT_SEED, held_out
from lookonce_scenes.questions import CATEGORIES
from lookonce_scenes.train import FIRST_TRAINING_SEED
from lookonce_scenes.world import render, sample_scene


def test_the_same_cases_every_time():
    for first, second in zip(held_out(20), held_out(20), strict=True):
        assert first._replace(image=None) == second._replace(image=None)
        np.testing.assert_array_equal(np.asarray(first.image), np.asarray(second.image))


def test_a_longer_run_starts_with_the_shorter_ones_cases():
    assert [case.questions for case in held_out(5)] == [case.questions for case in held_out(10)[:5]]


def test_seeds_are_below_the_trainings():
    cases = held_out(50)
    assert [case.scene.seed for case in cases] == list(range(HELD_OUT_SEED, HELD_OUT_SEED + 50))
    assert HELD_OUT_SEED + 100_000_000 < FIRST_TRAINING_SEED


def test_another_first_seed_gives_other_cases():
    assert held_out(1, 77)[0].scene == sample_scene(77)
    np.testing.assert_array_equal(np.asarray(held_out(1, 77)[0].image), render(sample_scene(77)))


def test_pairs_come_before_open_questions_in_the_order_of_categories():
    for case in held_out(30):
        assert list(case.pairs) == [c for c in CATEGORIES if c in case.pairs]
        questions = iter(case.questions)
        for category in case.pairs:
            yes, no = next(questions), next(questions)
            assert (yes.answer, no.answer) == ("Yes", "No")
            assert yes.category == no.category == category
        assert list(questions) == list(case.open.values())


def test_every_category_is_asked():
    cases = held_out(100)
    pairs, single = (Counter(c for case in cases for c in by(case)) for by in (lambda k: k.pairs, lambda k: k.open))
    assert set(pairs) == set(single) == set(CATEGORIES)
    assert min(pairs.values()) >= 20
    assert min(single.values()) >= 20
