"""Maps against masks, by hand."""

from itertools import combinations

import numpy as np
import pytest
import torch

from lookonce_evaluation.analysis.attention.observe import bands_of, chance, measured, patches_of, with_bands
from lookonce_server.engines.geometry import Area


def mask_of(*pixels: tuple[int, int], size: tuple[int, int] = (8, 8)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    for row, column in pixels:
        mask[row, column] = True
    return mask


def test_each_measure_says_what_it_is_called():
    patches = torch.tensor([True, True, False, False, False, False])
    maps = torch.tensor([[0.5, 0.1, 0.2, 0.1, 0.1, 0.0], [0.0, 0.1, 0.2, 0.3, 0.4, 0.0]])
    peak, top, iou, mass = measured(maps, patches, 3)
    assert peak.tolist() == [1, 0]
    assert top.tolist() == pytest.approx([2 / 3, 0])  # the highest are 0, 2 and 1; then 4, 3 and 2
    assert iou.tolist() == pytest.approx([1 / 3, 0])  # of two, one is shared: one of three
    assert mass.tolist() == pytest.approx([0.6, 0.1])


def test_a_map_that_is_the_mask_gets_everything():
    patches = torch.tensor([False, True, True, False])
    assert measured(patches[None].float(), patches, 2).flatten().tolist() == [1, 1, 1, 1]
    assert measured(1 - patches[None].float(), patches, 2).flatten().tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_chance_is_the_mean_over_all_maps(size):
    patches = torch.arange(5) < size
    maps = torch.zeros(0, 5)
    for chosen in combinations(range(5), size):
        one = torch.zeros(1, 5)
        one[0, list(chosen)] = 1
        maps = torch.cat([maps, one])
    peak, _, iou, _ = measured(maps, patches, 1).mean(1)
    assert chance(patches) == pytest.approx([size / 5, size / 5, float(iou), size / 5])
    assert size < 5 or peak == 1


def test_chance_of_thousands_of_patches_is_a_number():
    assert 0.2 < chance(torch.arange(16_000) < 6_000)[2] < 0.25


def test_a_patch_is_an_objects_when_it_covers_a_quarter_of_it():
    quarter = [(0, 0), (0, 1), (1, 0), (1, 1)]  # of a patch of 4 x 4
    assert patches_of(mask_of(*quarter), Area(0, 0, 8, 8), (2, 2)).tolist() == [True, False, False, False]
    both = [*quarter, *[(r, c) for r in range(4) for c in (4, 5)], (7, 7)]
    assert patches_of(mask_of(*both), Area(0, 0, 8, 8), (2, 2)).tolist() == [True, True, False, False]


def test_a_small_object_has_the_patch_that_it_covers_most():
    pixels = [(0, 0), (0, 4), (0, 5)]
    assert patches_of(mask_of(*pixels), Area(0, 0, 8, 8), (2, 2)).tolist() == [False, True, False, False]


def test_patches_lie_where_the_model_sees_them():
    """Cut from the middle of a wide picture; then padded above and below."""
    wide = mask_of((0, 4), (0, 5), (1, 4), size=(4, 8))
    assert patches_of(wide, Area(2, 0, 6, 4), (2, 2)).tolist() == [False, True, False, False]
    assert patches_of(wide, Area(0, -2, 8, 6), (4, 4)).nonzero().flatten().tolist() == [6]
    assert not patches_of(mask_of((0, 0), size=(4, 8)), Area(2, 0, 6, 4), (2, 2)).any()


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (8, ["early (0-2)", "middle (3-4)", "late (5-7)"]),
        (32, ["early (0-10)", "middle (11-20)", "late (21-31)"]),
        (2, ["early (0)", "late (1)"]),
        (1, ["late (0)"]),
    ],
)
def test_bands_hold_each_layer_once(layers, expected):
    *thirds, scored = bands_of(layers, range(1))
    assert [band.label for band in thirds if band.layers] == expected or layers < 3
    assert [layer for band in thirds for layer in band.layers] == list(range(layers))
    assert scored.label == "scored (0)"


def test_maps_of_bands_follow_those_of_layers():
    maps = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    found = with_bands(maps, bands_of(3, range(2)))
    assert torch.equal(found[:3], maps)
    assert found[3:].tolist() == [[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]]
