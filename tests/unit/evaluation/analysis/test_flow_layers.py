"""The sets of layers, and the stages that are told from curves over them."""

from hypothesis import given
from hypothesis import strategies as st

from lookonce_evaluation.analysis.information_flow.results import Stage, Stages, find_stages, layers_text
from lookonce_evaluation.analysis.information_flow.trials import default_step, default_window, layer_sets, windows


def layers(how: str, num_layers: int = 8, width: int = 3, step: int = 1) -> dict[int, tuple[int, ...]]:
    return {one.at: one.layers for one in layer_sets(num_layers, width, step) if one.how == how}


def test_the_sets_of_eight_layers():
    assert layers("all") == {0: (0, 1, 2, 3, 4, 5, 6, 7)}
    assert layers("from")[1] == (1, 2, 3, 4, 5, 6, 7)
    assert layers("from")[7] == (7,)
    assert layers("up to")[0] == (0,)
    assert layers("up to")[6] == (0, 1, 2, 3, 4, 5, 6)
    assert layers("all but")[0] == (2, 3, 4, 5, 6, 7)
    assert layers("all but")[2] == (0, 1, 4, 5, 6, 7)  # the middle quarter is left alone
    assert layers("all but")[6] == (0, 1, 2, 3, 4, 5)
    assert len(layer_sets(8, 3)) == 1 + 7 + 7 + 7 + 8


@given(st.integers(1, 80), st.integers(1, 9), st.integers(1, 5))
def test_sets_are_of_the_models_layers_and_none_is_there_twice(num_layers, width, step):
    sets = layer_sets(num_layers, width, step)
    assert len(set(sets)) == len(sets)
    for one in sets:
        assert set(one.layers) <= set(range(num_layers))
        assert list(one.layers) == sorted(one.layers)
        assert one.layers or (one.how == "all but" and num_layers < 4)


def test_the_published_window_is_centred_and_cut_off_at_the_ends():
    """Zhang et al.'s code: of 32 layers, centre 16 knocks 12-20 out, centre 0 the first five."""
    spans = {one.at: one.layers for one in windows(32, 9)}
    assert spans[16] == tuple(range(12, 21))
    assert spans[0] == (0, 1, 2, 3, 4)
    assert spans[31] == (27, 28, 29, 30, 31)
    assert {one.at: one.layers for one in windows(8, 4)}[4] == (2, 3, 4, 5)
    assert [one.at for one in windows(8, 3, step=3)] == [0, 3, 6]


def test_defaults_by_depth():
    widths = {1: (1, 1), 4: (1, 1), 8: (3, 1), 16: (5, 1), 18: (9, 1), 32: (9, 2), 80: (9, 5)}
    assert {depth: (default_window(depth), default_step(depth)) for depth in widths} == widths


def test_layers_are_named_as_ranges():
    assert layers_text((0, 1, 2, 5, 7)) == "0-2, 5, 7"
    assert layers_text(()) == ""


FLAT = [0.0] * 8
PUBLISHED = {
    "others→question": [-40, -35, -12, -2, 0, 0, 0, 0],
    "asked→question": [-38, -30, -15, -30, -25, -3, 0, 0],
    "question→last": [0, 0, 0, -5, -20, -70, -60, -9],
    "image→last": [0, 0, 0, 0, -2, -3, -1, 0],
}


def test_the_published_order_of_stages_is_found():
    assert find_stages(PUBLISHED, 10) == Stages(Stage(0, 2), Stage(2, 4), Stage(4, 6), None)


def test_a_higher_threshold_finds_less():
    assert find_stages(PUBLISHED, 30) == Stages(Stage(0, 1), Stage(3, 3), Stage(5, 6), None)
    assert find_stages(PUBLISHED, 90) == Stages(None, None, None, None)


def test_flat_curves_have_no_stages():
    assert find_stages(dict.fromkeys(PUBLISHED, FLAT)) == Stages(None, None, None, None)
    assert find_stages({}) == Stages(None, None, None, None)


def test_what_helps_the_answer_is_no_stage():
    assert find_stages({flow: [-one for one in curve] for flow, curve in PUBLISHED.items()}, 1) == Stages(
        None, None, None, None
    )


def test_patches_that_matter_as_much_as_the_others_are_not_specific():
    same = {"asked→question": [-50] * 4, "others→question": [-50] * 4}
    assert find_stages(same) == Stages(Stage(0, 3), None, None, None)


def test_of_several_runs_the_costliest_is_the_stage():
    assert find_stages({"question→last": [-11, -11, -11, 0, -60, 0, -50, 0]}).aggregation == Stage(4, 4)
    assert find_stages({"image→last": [0, 0, 0, 0, 0, 0, -20, -20]}).direct == Stage(6, 7)
