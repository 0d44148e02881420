"""Means, differences and areas, and their intervals."""

import math
import random

import pytest
import torch

from lookonce_evaluation.metrics.bootstrap import Estimate, auc, auc_with_interval, mean_change, means, shares_of_first


def test_the_area_is_the_chance_that_a_positive_has_less():
    generator = torch.Generator().manual_seed(3)
    signal = torch.randint(0, 6, (40,), generator=generator).float()  # with ties
    positive = torch.rand(40, generator=generator) < 0.3
    pairs = [(0.5 if p == n else float(p < n)) for p in signal[positive] for n in signal[~positive]]
    assert float(auc(signal, positive, torch.ones(1, 40))) == pytest.approx(sum(pairs) / len(pairs))


def test_the_interval_is_over_images_and_holds_the_area():
    signal = torch.arange(60.0)
    positive = torch.tensor([i % 7 == 0 or i < 10 for i in range(60)])
    found, low, high = auc_with_interval(signal, positive, [i // 3 for i in range(60)])
    assert 0.5 < low < found < high <= 1
    assert auc_with_interval(signal, torch.zeros(60, dtype=torch.bool), [0] * 60) is None
    assert auc_with_interval(-signal, ~positive, [0] * 60)[0] == pytest.approx(found)


def test_means_are_compared_image_by_image():
    drawn = random.Random(0)
    base = [drawn.random() for _ in range(300)]
    changed = [value / 2 if i % 10 == 0 else value for i, value in enumerate(base)]
    interval = mean_change(changed, base)
    differences = [100 * (one - other) for one, other in zip(changed, base, strict=True)]
    mean = sum(differences) / 300
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences)) / 300
    assert interval.value == pytest.approx(mean)
    assert interval.low == pytest.approx(mean - 1.96 * spread, abs=0.25 * spread)
    assert interval.high == pytest.approx(mean + 1.96 * spread, abs=0.25 * spread)
    assert mean_change(base, base) == Estimate(0, 0, 0)


def test_means_count_questions_and_draw_images():
    assert means([]) == means([[], []]) == []
    (mean,) = means([[[1.0], [2.0]], [], [[6.0]]])
    assert mean.value == 3.0
    assert (mean.low, mean.high) == (1.5, 6.0)  # of two images, either may be drawn alone
    same = means([[[2.0, 0.0]], [[2.0, 0.0]]])
    assert same == [(2.0, 2.0, 2.0), (0.0, 0.0, 0.0)]
    assert same[0].shown(1) == "2.0 (2.0 to 2.0)"


def test_shares_are_of_the_first_columns_sum_with_intervals_over_images():
    values = [[(2.0, 1.0)], [(1.0, 1.0), (1.0, 0.0)], [], [(0.0, 1.0)]]
    first, second = shares_of_first(values)
    assert tuple(first) == (1.0, 1.0, 1.0)
    assert second.value == 3 / 4
    assert 0.5 <= second.low < 3 / 4 < second.high < math.inf  # draws of the last image alone tell of no share
    assert shares_of_first([[(0.0, 1.0)], []]) == []
