"""The rules for scenes: which objects a text names, and which are the same."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookonce_evaluation.metrics.captions import Score
from lookonce_evaluation.tasks.judge.judges import RuleJudge, compare, score
from lookonce_scenes.world import COLORS, KINDS, SIZES, sample_scene

JUDGE = RuleJudge()


def test_a_caption_names_its_scenes_objects():
    for seed in range(600_000_000, 600_000_040):
        scene = sample_scene(seed)
        assert JUDGE.objects(scene.caption) == [o.phrase for o in scene.objects]
        assert score(JUDGE, scene.caption, scene.caption) == Score(len(scene.objects), 0, 0)


@pytest.mark.parametrize(
    ("description", "objects"),
    [
        ("A large purple star at the top center, a small red circle at the bottom left.",
         ["large purple star", "small red circle"]),
        ("", []),
        ("a a a the , , .", []),
        ("small small red red", []),
        ("a small red, circle at the", ["circle"]),
        ("red. A circle", ["circle"]),
        ("the red one is a circle", ["circle"]),
        ("small blue red circle", ["small red circle"]),
        ("a small red circle at the top left, a small red circle at the top left, a small red", ["small red circle"]),
        ("the digit 7 in blue, a large green number 8", ["digit 7", "large green 8"]),
        ("2", []),
        ("there are 3", []),
        ("Red circles and BLUE SQUARES", ["red circle", "blue square"]),
        ("77 starscircle recircle", []),
        ("ein großer 猫 \x00\n\ud800 star", ["star"]),
    ],
)  # fmt: skip
def test_the_rules_read_what_can_be_read(description, objects):
    assert JUDGE.objects(description) == objects


@pytest.mark.parametrize(
    ("original", "altered", "counts"),
    [
        ("a small red circle", "a large red circle at the top", (1, 0, 0)),
        ("a small red circle", "a small blue circle", (0, 1, 1)),
        ("a small red circle", "a small red square", (0, 1, 1)),
        ("a small red circle", "a circle", (1, 0, 0)),
        ("a red circle, a blue circle", "a circle, a red circle", (2, 0, 0)),
        ("a circle, a red circle", "a circle, a blue circle", (2, 0, 0)),
        ("a small red circle", "a small red circle, a large red circle", (1, 1, 0)),
        ("a red circle, a blue 7", "", (0, 0, 2)),
    ],
)
def test_kind_and_colour_decide_what_is_the_same(original, altered, counts):
    assert score(JUDGE, original, altered) == counts


PHRASES = [" ".join(p).strip() for p in itertools.product(("", "red", "blue"), ("circle", "star"))]


@given(st.lists(st.sampled_from(PHRASES), max_size=5), st.lists(st.sampled_from(PHRASES), max_size=5))
def test_the_matching_is_one_to_one_and_none_is_larger(original, altered):
    matches = JUDGE.match(original, altered)
    assert len({m.original for m in matches}) == len({m.altered for m in matches}) == len(matches)

    def fits(one, other):
        return one.split()[-1] == other.split()[-1] and (one == other or " " not in one or " " not in other)

    assert all(fits(original[m.original], altered[m.altered]) for m in matches)
    padded = [*altered, *[""] * len(original)]
    best = max(
        sum(bool(other) and fits(one, other) for one, other in zip(original, order, strict=False))
        for order in itertools.permutations(padded, len(original))
    ) if len(original) <= 3 and len(altered) <= 3 else len(matches)  # fmt: skip
    assert len(matches) == best


WORDS = st.sampled_from([*KINDS, *COLORS, *SIZES, "a", "at", "the", ",", ".", "top"])


@given(st.lists(WORDS, max_size=30).map(" ".join) | st.text(max_size=60))
def test_any_text_can_be_judged(text):
    found = JUDGE.objects(text)
    assert JUDGE.objects(", ".join(found)) == found
    assert compare(JUDGE, found, found) == Score(len(found), 0, 0)
