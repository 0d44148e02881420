"""Accuracies of two ways to answer, and the interval of their difference."""

import math
import random

import pytest

from lookonce_evaluation.dataset import Case
from lookonce_evaluation.paired import Interval, Outcomes, mean_change
from lookonce_scenes.questions import Question

ASKED = Question("count", "?", "Yes")


def case(pairs=("count",), single=()):
    return Case("", None, dict.fromkeys(pairs, (ASKED, ASKED)), dict.fromkeys(single, ASKED))


def outcomes(*answers, about=None):
    made = Outcomes()
    for right in answers:
        made.add(about or case(), list(right))
    return made


def test_percentages_are_means_over_the_categories_asked():
    made = Outcomes()
    made.add(case(("count", "color"), ("size",)), [True, True, True, False, False])
    made.add(case(("count",), ("size", "shape")), [True, False, True, True])
    assert made.percent("acc") == pytest.approx((75 + 50) / 2)
    assert made.percent("acc+") == pytest.approx((50 + 0) / 2)
    assert made.percent("open") == pytest.approx((50 + 100) / 2)


def test_no_difference_is_certain():
    ours = outcomes((True, False), (True, True))
    assert ours.change(ours, "acc") == Interval(0, 0, 0)


def test_the_interval_is_that_of_paired_answers():
    """Both fail at half of the images, the same ones but for one in twenty: hence far narrower than unpaired."""
    drawn = random.Random(0)
    base = [(drawn.random() < 0.5,) * 2 for _ in range(400)]
    changed = [(not one, other) if i % 20 == 0 else (one, other) for i, (one, other) in enumerate(base)]
    interval = outcomes(*changed).change(outcomes(*base), "acc")
    differences = [50 * (sum(one) - sum(other)) for one, other in zip(changed, base, strict=True)]
    mean = sum(differences) / 400
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences)) / 400
    assert interval.difference == pytest.approx(mean, abs=1e-4)
    assert interval.low == pytest.approx(mean - 1.96 * spread, abs=0.2 * spread)
    assert interval.high == pytest.approx(mean + 1.96 * spread, abs=0.2 * spread)


def test_the_interval_is_the_same_every_time():
    ours, base = outcomes(*[(True, True)] * 9, (False, True)), outcomes(*[(True, False)] * 2, *[(True, True)] * 8)
    assert ours.change(base, "acc") == ours.change(base, "acc")
    assert str(Interval(-0.1234, -1, 0.5)) == "-0.12 (-1.00 to +0.50)"


def test_means_are_compared_image_by_image():
    drawn = random.Random(0)
    base = [drawn.random() for _ in range(300)]
    changed = [value / 2 if i % 10 == 0 else value for i, value in enumerate(base)]
    interval = mean_change(changed, base)
    differences = [100 * (one - other) for one, other in zip(changed, base, strict=True)]
    mean = sum(differences) / 300
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences)) / 300
    assert interval.difference == pytest.approx(mean)
    assert interval.low == pytest.approx(mean - 1.96 * spread, abs=0.25 * spread)
    assert interval.high == pytest.approx(mean + 1.96 * spread, abs=0.25 * spread)
    assert mean_change(base, base) == Interval(0, 0, 0)
