"""Scenes keep their promises, and are drawn the same everywhere."""

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookonce_scenes.questions import CATEGORIES, OPEN, find_objects, yes_no_pair
from lookonce_scenes.world import (
    COLORS,
    DIGITS,
    IMAGE_SIZE,
    KINDS,
    REGIONS,
    SIZES,
    WIDE,
    Scene,
    SceneObject,
    fits_ground,
    in_reading_order,
    masks,
    render,
    sample_scene,
)

from .oracle import place, said

seeds = st.integers(0, 2**32)


@settings(deadline=None)  # a busy machine is no failure
@given(seeds)
def test_the_same_seed_gives_the_same_picture(seed):
    first, second = sample_scene(seed), sample_scene(seed)
    assert first == second
    assert render(first).tobytes() == render(second).tobytes()


def test_seeds_give_scenes_of_their_own():
    scenes = [sample_scene(seed) for seed in range(200)]
    assert len({scene.objects for scene in scenes}) == 200
    assert len({render(scene).tobytes() for scene in scenes}) == 200


@settings(deadline=None)
@given(seeds)
def test_a_scene_keeps_its_promises(seed):
    objects = sample_scene(seed).objects
    assert 1 <= len(objects) <= 4
    assert len({(o.kind, o.color) for o in objects}) == len(objects)
    assert [(o.region, o.x) for o in objects] == sorted((o.region, o.x) for o in objects)
    assert [o.size for o in objects if o.kind in DIGITS] in ([], ["large"])
    for i, o in enumerate(objects):
        assert o.kind in KINDS
        assert o.color in COLORS
        assert o.size in SIZES
        assert o.radius < min(o.x, o.y)
        assert max(o.x, o.y) < IMAGE_SIZE - o.radius
        assert REGIONS[o.region] == place(o)
        for line in (IMAGE_SIZE / 3, IMAGE_SIZE * 2 / 3):
            assert min(abs(o.x - line), abs(o.y - line)) >= 2.5
        for other in objects[:i]:
            assert max(abs(o.x - other.x), abs(o.y - other.y)) >= o.radius + other.radius + 2


@settings(deadline=None)
@given(seeds)
def test_the_caption_names_every_object_in_order(seed):
    scene = sample_scene(seed)
    assert scene.caption == "A" + ", ".join(said(o) for o in scene.objects)[1:] + "."


@pytest.mark.parametrize(("fewest", "most"), [(1, 1), (2, 3), (4, 4)])
def test_the_number_of_objects_is_bounded(fewest, most):
    counts = {len(sample_scene(seed, fewest, most).objects) for seed in range(100)}
    assert counts == set(range(fewest, most + 1))


def test_digits_come_at_their_rate():
    shown = [any(o.kind in DIGITS for o in sample_scene(seed).objects) for seed in range(600)]
    assert 0.2 < sum(shown) / len(shown) < 0.4
    assert not any(o.kind in DIGITS for s in range(100) for o in sample_scene(s, digit_rate=0.0).objects)


def test_every_kind_color_size_and_region_occurs():
    objects = [o for seed in range(600) for o in sample_scene(seed).objects]
    assert {o.kind for o in objects} == set(KINDS)
    assert {(o.color, o.size) for o in objects} == {(c, s) for c in COLORS for s in SIZES}
    assert {o.region for o in objects} == set(range(9))


def test_masks_are_disjoint_and_cover_their_objects():
    for seed in range(150):
        scene = sample_scene(seed)
        drawn = masks(scene)
        assert len(drawn) == len(scene.objects)
        assert np.sum(drawn, axis=0).max() == 1
        for o, mask in zip(scene.objects, drawn, strict=True):
            assert mask.shape == (IMAGE_SIZE, IMAGE_SIZE)
            y, x = mask.nonzero()
            assert abs(x.mean() - o.x) < 0.3 * o.radius
            assert abs(y.mean() - o.y) < 0.3 * o.radius
            assert mask[int(o.y), int(o.x)] or o.kind in DIGITS  # a zero is hollow
            assert max(abs(x + 0.5 - o.x).max(), abs(y + 0.5 - o.y).max()) <= 1.15 * o.radius + 1
            assert mask.sum() > 0.6 * o.radius**2


def test_masks_are_where_the_picture_differs_from_its_background():
    compared = 0
    for seed in range(60):
        scene = sample_scene(seed)
        picture, covered = render(scene), np.any(masks(scene), axis=0)
        near = _grown(covered, 2)
        plain = np.unique(picture[~near], axis=0)
        if len(plain) > 1:  # a textured background
            continue
        compared += 1
        differs = (picture != plain[0]).any(-1)
        assert differs[covered].all()
        assert not differs[~near].any()
    assert compared > 10


def _grown(mask, pixels: int):
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = mask | padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]
    return mask


@pytest.mark.parametrize("color", COLORS)
def test_an_object_shows_its_color(color):
    """Every drawn colour is nearest to its own name's, whatever the seed's jitter and texture."""
    names, values = list(COLORS), np.array(list(COLORS.values()), dtype=float)
    for seed in range(20):
        scene = Scene((SceneObject("square", color, "large", 56, 56, 12.5),), seed)
        shown = render(scene)[50:62, 50:62].reshape(-1, 3).mean(0)
        assert names[np.argmin(((values - shown) ** 2).sum(-1))] == color


def test_backgrounds_vary():
    corners = np.array([render(sample_scene(seed))[:3, :3].mean() for seed in range(60)])
    assert corners.min() < 60
    assert corners.max() > 195


# Pooled to 4 x 4 blocks of 28 pixels, and compared within a few levels: what a release of Pillow or numpy may change at
# an edge or in the noise passes, a changed world does not.
GOLDEN = {
    7: (
        "A small blue circle at the top center, "
        "a small purple star at the center, "
        "a small blue triangle at the bottom center.",
        [
            (228, 229, 236), (201, 209, 236), (228, 229, 236), (228, 229, 236),
            (228, 229, 236), (227, 228, 236), (221, 215, 232), (228, 229, 236),
            (228, 229, 236), (215, 220, 236), (228, 229, 236), (228, 229, 236),
            (228, 229, 236), (220, 224, 236), (228, 229, 236), (228, 229, 236),
        ],
    ),
    500_000_008: (
        "A large red 1 at the top left, "
        "a small yellow star at the bottom left.",
        [
            (138, 105, 107), (136, 109, 112), (136, 113, 116), (138, 115, 118),
            (131, 103, 105), (132, 105, 108), (131, 108, 111), (133, 110, 113),
            (127, 103, 101), (126, 103, 105), (127, 104, 107), (129, 106, 109),
            (125, 101, 95), (123, 100, 100), (123, 100, 103), (125, 102, 105),
        ],
    ),
    2_000_000_011: (
        "A small blue square at the top right.",
        [
            (175, 164, 173), (177, 166, 175), (176, 166, 178), (170, 164, 181),
            (179, 168, 177), (181, 170, 179), (180, 170, 181), (177, 169, 184),
            (182, 171, 180), (184, 173, 182), (186, 175, 184), (188, 177, 186),
            (186, 175, 184), (188, 177, 186), (190, 179, 188), (192, 181, 190),
        ],
    ),
    1_000_000_002: (
        "A small yellow triangle at the top left, "
        "a small blue circle at the center left.",
        [
            (65, 78, 41), (44, 59, 39), (43, 58, 38), (44, 59, 39),
            (43, 65, 68), (43, 60, 45), (43, 58, 38), (43, 58, 38),
            (43, 58, 38), (44, 59, 39), (44, 59, 39), (44, 59, 39),
            (43, 58, 38), (43, 58, 38), (44, 59, 39), (44, 59, 39),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("seed", GOLDEN)
def test_the_world_is_the_one_the_checkpoint_was_trained_on(seed):
    caption, blocks = GOLDEN[seed]
    scene = sample_scene(seed)
    assert scene.caption == caption
    pooled = render(scene).reshape(4, 28, 4, 28, 3).mean((1, 3))
    assert np.abs(pooled.reshape(-1, 3) - np.array(blocks)).max() < 2


def test_what_is_evaluated_is_what_it_always_was():
    """The narrow world's scenes, and the questions asked of them, by their digest."""
    digest = hashlib.sha256()
    for seed in (*range(150), *range(500_000_000, 500_000_100)):
        scene, rng = sample_scene(seed), random.Random(seed)
        digest.update(repr([(o.kind, o.color, o.size, o.x, o.y, o.radius) for o in scene.objects]).encode())
        for category in CATEGORIES:
            asked = [*(yes_no_pair(scene, category, rng) or ()), OPEN[category](scene, rng), find_objects(scene, rng)]
            digest.update(repr([tuple(question) for question in asked if question]).encode())
    assert digest.hexdigest() == "c4f632f65f3bf582fcebfd458426482f6137dfb7baf8bd68a84fe251bea9ad8a"


# --- the wide world --------------------------------------------------------------------------------------------------

WIDE_SCENES = [sample_scene(seed, world=WIDE) for seed in range(600)]


def test_a_wide_scene_keeps_its_promises():
    for scene in WIDE_SCENES:
        assert 1 <= len(scene.objects) <= 4
        assert len({(o.kind, o.color) for o in scene.objects}) == len(scene.objects)
        assert scene.objects == in_reading_order(scene.objects)
        for i, o in enumerate(scene.objects):
            assert o.kind in WIDE.kinds
            assert o.color in WIDE.colors
            assert fits_ground(o, scene.style)
            assert o.radius < min(o.x, o.y) <= max(o.x, o.y) < IMAGE_SIZE - o.radius
            assert (o.radius <= 8.5) == (o.size == "small")
            assert (min(o.aspect, 1 / o.aspect) < 0.7) or o.kind not in ("rectangle", "oval")
            for other in scene.objects[:i]:
                assert max(abs(o.x - other.x), abs(o.y - other.y)) >= o.radius + other.radius + 2


def test_the_wide_world_shows_everything_it_has():
    objects = [o for scene in WIDE_SCENES for o in scene.objects]
    styles = [scene.style for scene in WIDE_SCENES]
    assert {o.kind for o in objects} == set(WIDE.kinds)
    assert {o.color for o in objects} == set(WIDE.colors)
    assert max(o.radius for o in objects) > 40
    assert 0.02 < sum(o.line > 0 for o in objects) / len(objects) < 0.2
    assert {o.turn for o in objects if o.kind == "triangle"} == {0, 90, 180, 270}
    assert 0.35 < sum(len(scene.objects) == 1 for scene in WIDE_SCENES) / len(WIDE_SCENES) < 0.6
    assert {style.is_smooth for style in styles} == {True, False}
    assert {64, IMAGE_SIZE, 224} <= {style.canvas for style in styles}
    assert any(style.quality for style in styles)
    assert {"white", "black", ""} <= {style.ground_name for style in styles}


def test_wide_scenes_are_drawn_the_same_again_and_show_their_colors():
    for scene in WIDE_SCENES[:80]:
        picture = render(scene)
        assert picture.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        assert picture.tobytes() == render(sample_scene(scene.seed, world=WIDE)).tobytes()
        for o, mask in zip(scene.objects, masks(scene), strict=True):
            if mask.sum() > 120 and not o.line and o.kind not in DIGITS:
                shown = np.median(picture[mask], axis=0)
                assert np.abs(shown - o.rgb).max() < 40  # noise, a gradient and JPEG move it a little
