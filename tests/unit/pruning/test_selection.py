from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lookonce_pruning import SELECTIONS, ImageScores, PruningError, RecordingError, UnknownSelectionError, get_selection

NAMES = list(SELECTIONS)


def scores_of(values, grid):
    return ImageScores(values, tuple(range(len(values))), grid, num_layers=len(values))


@st.composite
def scored(draw):
    grid = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)) | st.tuples(*[st.integers(1, 4)] * 3))
    layers = draw(st.integers(1, 4))
    tokens = math.prod(grid)
    flat = draw(st.lists(st.floats(0, 1, width=32), min_size=layers * tokens, max_size=layers * tokens))
    return scores_of(torch.tensor(flat).view(layers, -1), grid), draw(st.integers(0, tokens))


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(case=scored())
def test_rows_are_sorted_distinct_and_in_range(name, case):
    scores, keep = case
    kept = get_selection(name).select(scores, keep)
    assert kept.dtype == torch.int64
    assert kept.shape == (len(scores.layers) if name == "attention-per-layer" else 1, keep)
    assert (kept.diff(dim=1) > 0).all()
    assert ((kept >= 0) & (kept < scores.tokens)).all()


@pytest.mark.parametrize("keep", [-1, 13])
@pytest.mark.parametrize("name", NAMES)
def test_keep_out_of_range(name, keep):
    with pytest.raises(ValueError, match=f"keep {keep}"):
        get_selection(name).select(scores_of(torch.rand(2, 12), (3, 4)), keep)


def test_attention_ranks_by_the_mean_of_the_window():
    scores = scores_of(torch.tensor([[0.9, 0.0, 0.5, 0.1], [0.0, 0.1, 0.6, 0.2]]), (2, 2))
    assert get_selection("attention").select(scores, 2).tolist() == [[0, 2]]


def test_attention_per_layer_ranks_each_layer_by_itself():
    scores = scores_of(torch.tensor([[0.9, 0.0, 0.5, 0.1], [0.0, 0.3, 0.6, 0.2]]), (2, 2))
    assert get_selection("attention-per-layer").select(scores, 2).tolist() == [[0, 2], [1, 2]]


def test_attention_per_layer_needs_every_layer():
    scores = ImageScores(torch.rand(2, 4), (1, 2), (2, 2), num_layers=4)
    with pytest.raises(ValueError, match="window 'all'"):
        get_selection("attention-per-layer").select(scores, 2)


@settings(deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.data())
def test_uniform_leaves_no_large_hole(height, width, data):
    keep = data.draw(st.integers(1, height * width))
    kept = get_selection("uniform").select(scores_of(torch.zeros(1, height * width), (height, width)), keep)[0]
    rows, columns = kept // width, kept % width
    cells = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    farthest = torch.max((cells[:, :1] - rows).abs(), (cells[:, 1:] - columns).abs()).min(dim=1).values.max()
    # A cell of an even cover is a square of side sqrt(area / keep), or a strip where the grid is thinner than that.
    side = max((height * width / keep) ** 0.5, height / keep, width / keep)
    assert farthest <= side + 1


def test_uniform_of_a_quarter_is_every_other_cell():
    kept = get_selection("uniform").select(scores_of(torch.zeros(1, 64), (8, 8)), 16)[0]
    assert kept.tolist() == [row * 8 + column for row in (1, 3, 5, 7) for column in (1, 3, 5, 7)]


def test_random_depends_on_the_seed_alone():
    first, second = (scores_of(torch.rand(1, 100), (10, 10)) for _ in range(2))
    assert torch.equal(
        get_selection("random", seed=3).select(first, 20), get_selection("random", seed=3).select(second, 20)
    )
    assert not torch.equal(
        get_selection("random", seed=3).select(first, 20), get_selection("random", seed=4).select(first, 20)
    )


def blob(height, width, row, column, peak):
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return peak * torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 4)


def test_coverage_reaches_the_second_object():
    loud, faint = blob(14, 14, 3, 3, peak=1.0), blob(14, 14, 10, 10, peak=0.2)
    scores = scores_of((loud + faint).view(1, -1), (14, 14))

    def on_faint(name):
        return (faint.flatten()[get_selection(name).select(scores, 10)[0]] > 0.05).sum()

    assert on_faint("attention") == 0
    assert on_faint("coverage") >= 1


def test_coverage_spreads_a_small_budget_further():
    scores = scores_of(torch.full((1, 400), 0.5), (20, 20))

    def closest(name, keep):
        kept = get_selection(name).select(scores, keep)[0]
        return torch.pdist(torch.stack((kept // 20, kept % 20), dim=1).float()).min()

    assert closest("attention", 2) == 1
    assert closest("coverage", 2) > closest("coverage", 8) > closest("coverage", 100) >= 1


def test_coverage_of_a_video_knows_its_frames():
    """The last row of a frame is no neighbour of the next frame's first; the same place in the next frame is one."""
    values = torch.full((4, 3, 3), 0.1)
    values[0, 2, 1], values[1, 0, 1], values[1, 2, 1] = 1.0, 0.5, 0.51

    def kept(grid):
        return get_selection("coverage:reach=0.5,strength=1").select(scores_of(values.view(1, -1), grid), 2)[0].tolist()

    assert kept((4, 3, 3)) == [7, 10]
    assert kept((12, 3)) == [7, 16]


@settings(deadline=None)
@given(case=scored())
def test_coverage_without_strength_is_attention(case):
    scores, keep = case
    kept = get_selection("coverage", strength=0.0).select(scores, keep)
    mean = scores.values.double().mean(dim=0)
    left_out = torch.ones(scores.tokens, dtype=torch.bool)
    left_out[kept[0]] = False
    if 0 < keep < scores.tokens:
        assert mean[kept[0]].min() >= mean[left_out].max()


@pytest.mark.parametrize("options", [{"reach": 0.0}, {"reach": float("nan")}, {"strength": 1.1}, {"strength": -0.1}])
def test_coverage_parameters_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        get_selection("coverage", **options)


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(UnknownSelectionError) as caught:
        get_selection("atention")
    assert isinstance(caught.value, PruningError)
    assert "'atention'" in str(caught.value)
    assert all(name in str(caught.value) for name in NAMES)


def test_scores_check_themselves():
    with pytest.raises(ValueError, match="expected"):
        scores_of(torch.zeros(1, 5), (2, 2))
    with pytest.raises(RecordingError, match="not finite"):
        scores_of(torch.full((1, 4), torch.nan), (2, 2))


def test_options_may_stand_in_the_name():
    assert get_selection("coverage:reach=0.3,strength=1") == get_selection("coverage", reach=0.3, strength=1)
    assert get_selection("random:seed=3") == get_selection("random", seed=3)
    assert get_selection("coverage:reach=0.3", reach=0.4) == get_selection("coverage", reach=0.4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("coverage:raech=1", "no option 'raech'; coverage has reach, strength"),
        ("uniform:seed=1", "no option 'seed'; uniform has none"),
        ("coverage:reach=far", "expected reach=number after the colon, not 'reach=far'"),
        ("coverage:reach", "expected reach=number after the colon, not 'reach'"),
        ("coverage:reach=0", "reach 0: expected more than 0"),
    ],
)
def test_wrong_options_are_refused_by_name(spec, message):
    with pytest.raises(ValueError, match=message):
        get_selection(spec)


@pytest.mark.parametrize("rest", ["uniform", "random"])
def test_half_of_a_hybrid_goes_by_attention(rest):
    scores = scores_of(torch.rand(3, 64, generator=torch.Generator().manual_seed(0)), (8, 8))
    kept = set(get_selection(f"attention-{rest}").select(scores, 9)[0].tolist())
    blind = set(get_selection(rest).select(scores, 4)[0].tolist())
    ranking = scores.values.mean(0).argsort(descending=True).tolist()
    assert kept == blind | set([token for token in ranking if token not in blind][:5])


@pytest.mark.parametrize("rest", ["uniform", "random"])
def test_the_ends_of_a_hybrid_are_its_parts(rest):
    scores = scores_of(torch.rand(1, 64, generator=torch.Generator().manual_seed(0)), (8, 8))
    for share, part in ((0, rest), (1, "attention")):
        hybrid = get_selection(f"attention-{rest}", share=share)
        assert torch.equal(hybrid.select(scores, 9), get_selection(part).select(scores, 9))
    with pytest.raises(ValueError, match=r"share 1\.5"):
        get_selection(f"attention-{rest}:share=1.5")


def test_scores_of_a_smaller_window():
    scores = ImageScores(torch.arange(12.0).view(3, 4), (2, 3, 4), (2, 2), num_layers=8)
    inner = scores.within(range(3, 5))
    assert inner.values.tolist() == scores.values[1:].tolist()
    assert (inner.layers, inner.grid, inner.num_layers) == ((3, 4), (2, 2), 8)
    with pytest.raises(ValueError, match=r"layers \[5\] were not recorded"):
        scores.within(range(3, 6))
