"""Tokens in tiles: where each of them lies."""

import pytest
import torch

from lookonce_pruning import ImageScores, TileBlock, TileLayout, get_selection

WHOLE = (0.0, 0.0, 1.0, 1.0)
TILES = TileLayout((TileBlock(2, 3, 2, 2, 0, *WHOLE), TileBlock(1, 1, 2, 2, 0, *WHOLE)))
ROWS = TileLayout((TileBlock(1, 1, 1, 2, 0, *WHOLE), TileBlock(1, 1, 2, 3, 1, -0.5, 0.0, 1.5, 1.0)))


def test_tokens_come_tile_by_tile_and_lie_row_by_row():
    tiles, thumbnail = TILES.indices()
    assert tiles.tolist() == [
        [0, 1, 4, 5, 8, 9],
        [2, 3, 6, 7, 10, 11],
        [12, 13, 16, 17, 20, 21],
        [14, 15, 18, 19, 22, 23],
    ]
    assert thumbnail.tolist() == [[24, 25], [26, 27]]
    assert TILES.tiles().tolist() == [token // 4 for token in range(28)]
    assert (TILES.tokens, TILES.grid) == (28, (1, 28))


def test_each_token_has_its_box():
    boxes = TILES.boxes()
    assert boxes[17].tolist() == pytest.approx([3 / 6, 2 / 4, 4 / 6, 3 / 4])
    assert boxes[26].tolist() == [0, 0.5, 0.5, 1]
    for block in TILES.indices():
        assert (boxes[block, 2:] - boxes[block, :2]).prod(dim=-1).sum() == pytest.approx(1)


def test_breaks_show_nothing_and_padding_lies_beyond_the_picture():
    assert [tokens.tolist() for tokens in ROWS.indices()] == [[[0, 1]], [[2, 3, 4], [6, 7, 8]]]
    boxes = ROWS.boxes()
    assert boxes[[5, 9]].tolist() == [[0.0] * 4] * 2
    assert boxes[8].tolist() == pytest.approx([1.5 - 2 / 3, 0.5, 1.5, 1])


def test_one_grid_is_a_grid():
    assert TileLayout((TileBlock(1, 1, 3, 4, 0, *WHOLE),)).grid == (3, 4)
    assert TileLayout((TileBlock(1, 1, 3, 4, 1, *WHOLE),)).grid == (1, 15)


@pytest.mark.parametrize("blocks", [(), (TileBlock(1, 1, 1, 1, 0, 0.0, 0.0, 0.0, 0.0),)])
def test_a_layout_shows_something(blocks):
    with pytest.raises(ValueError, match="expected at least one, each with an area"):
        TileLayout(blocks)


def test_numbers_are_a_layout_again():
    assert TileLayout.of(torch.tensor(ROWS.blocks, dtype=torch.float64).tolist()) == ROWS


def test_scores_are_of_the_layout():
    with pytest.raises(ValueError, match="layout of 28 tokens: expected 27"):
        ImageScores(torch.zeros(1, 27), (0,), (1, 27), 1, TILES)


def second(values: dict[int, float], layout: TileLayout = TILES, frames: int = 1) -> int:
    """The token that coverage keeps beside the best one, of these scores; the others have almost none."""
    scores = torch.full((1, layout.tokens * frames), 1e-12)
    for token, value in values.items():
        scores[0, token] = value
    grid = (frames, 1, layout.tokens) if frames > 1 else layout.grid
    kept = get_selection("coverage:reach=0.5,strength=1").select(ImageScores(scores, (0,), grid, 1, layout), 2)[0]
    (other,) = set(kept.tolist()) - {max(values, key=values.__getitem__)}
    return other


def test_coverage_goes_by_what_tokens_show():
    """Tokens 5 and 8 are neighbours across tiles, 5 and 6 one token apart in the order alone."""
    assert second({5: 1.0, 8: 0.9, 14: 0.5}) == 14
    assert second({11: 1.0, 12: 0.9, 10: 0.95}) == 12  # the next in the order is at the other side of the picture


def test_coverage_of_a_thumbnail_is_that_of_its_tiles():
    """Token 24 shows the upper left, as 3 does; 27 the lower right."""
    assert second({3: 1.0, 24: 0.9, 27: 0.8}) == 27
    assert second({20: 1.0, 24: 0.8, 27: 0.9}) == 24


def test_tokens_that_show_nothing_are_near_none():
    assert second({5: 1.0, 4: 0.9, 2: 0.1}, ROWS) == 4
    assert second({4: 1.0, 5: 0.9, 3: 0.95}, ROWS) == 5


def test_coverage_of_a_video_in_tiles_knows_its_frames():
    assert second({17: 1.0, 17 + 28: 0.9, 17 + 56: 0.8}, frames=3) == 17 + 56


def test_one_grid_over_the_whole_picture_is_chosen_from_as_by_its_grid():
    random = torch.Generator().manual_seed(5)
    layout = TileLayout((TileBlock(1, 1, 9, 9, 0, *WHOLE),))
    for keep in (1, 7, 40):
        values = torch.rand(1, 81, generator=random)
        kept = [
            get_selection("coverage").select(ImageScores(values, (0,), (9, 9), 1, each), keep)
            for each in (None, layout)
        ]
        assert kept[0].tolist() == kept[1].tolist()
