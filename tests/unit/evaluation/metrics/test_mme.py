"""Accuracies of two ways to answer, and the interval of their difference."""

import math
import random

import pytest

from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.methods import Context, FullPass
from lookonce_evaluation.metrics.bootstrap import Estimate
from lookonce_evaluation.metrics.mme import Outcomes, rows_of
from lookonce_evaluation.tables import accuracy
from lookonce_scenes.questions import CATEGORIES, Question

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
    assert ours.change(ours, "acc") == Estimate(0, 0, 0)


def test_the_interval_is_that_of_paired_answers():
    """Both fail at half of the images, the same ones but for one in twenty: hence far narrower than unpaired."""
    drawn = random.Random(0)
    base = [(drawn.random() < 0.5,) * 2 for _ in range(400)]
    changed = [(not one, other) if i % 20 == 0 else (one, other) for i, (one, other) in enumerate(base)]
    interval = outcomes(*changed).change(outcomes(*base), "acc")
    differences = [50 * (sum(one) - sum(other)) for one, other in zip(changed, base, strict=True)]
    mean = sum(differences) / 400
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences)) / 400
    assert interval.value == pytest.approx(mean, abs=1e-4)
    assert interval.low == pytest.approx(mean - 1.96 * spread, abs=0.2 * spread)
    assert interval.high == pytest.approx(mean + 1.96 * spread, abs=0.2 * spread)


def test_the_interval_is_the_same_every_time():
    ours, base = outcomes(*[(True, True)] * 9, (False, True)), outcomes(*[(True, False)] * 2, *[(True, True)] * 8)
    assert ours.change(base, "acc") == ours.change(base, "acc")
    assert str(Estimate(-0.1234, -1, 0.5)) == "-0.12 (-1.00 to +0.50)"


YES, NO, OPEN = Question("count", "?", "Yes"), Question("count", "?", "No"), Question("count", "?", "2")
FIRST, SECOND = FullPass(), Context("random", 0.05, "random", (0, 2), "generated", 0)


def asked(pairs: tuple[str, ...], single: tuple[str, ...]) -> Case:
    return Case("", None, dict.fromkeys(pairs, (YES, NO)), dict.fromkeys(single, OPEN))


def record(tokens, size, right):
    return {"tokens": tokens, "bytes": size, "right": right}


def test_acc_counts_questions_and_acc_plus_counts_images():
    cases = [asked(("count", "color"), ("count",)), asked(("count",), ("count", "size"))]
    records = [[record(10, 960, "11100")], [record(5, 480, "1011")]]
    (row,) = rows_of(cases, [FIRST], records, CATEGORIES)
    found = row.as_json(row.outcomes)
    assert found["acc"]["by category"] == {"count": 75.0, "color": 50.0}
    assert found["acc+"]["by category"] == {"count": 50.0, "color": 0.0}
    assert found["open"]["by category"] == {"count": 50.0, "size": 100.0}
    assert [found[kind]["percent"] for kind in ("acc", "acc+", "open")] == [62.5, 25.0, 75.0]
    assert (row.name, row.retention, row.tokens, row.bytes) == ("full pass", None, 7.5, 720)


def test_seeds_are_one_row_of_their_mean_and_range():
    images = [asked(("count",), ())] * 2
    seeded = [SECOND, Context("random", 0.05, "random", (0, 2), "generated", 1)]
    records = [
        [record(9, 9, "11"), record(1, 4, "10"), record(3, 8, "11")],
        [record(9, 9, "11")] + [record(2, 6, "00")] * 2,
    ]
    full, row = rows_of(images, [FIRST, *seeded], records, CATEGORIES)
    assert [one.percent("acc") for one in row.seeds] == [25, 50]
    assert row.outcomes.change(full.outcomes, "acc").value == -62.5
    assert (row.tokens, row.bytes) == (2, 6)
    assert "| 5% | random | 2 | 0 | 37.5 (25.0 to 50.0) | 37.5% | -62.50 (" in accuracy([full, row])
    assert "open" not in accuracy([full, row])  # of which nothing was asked
