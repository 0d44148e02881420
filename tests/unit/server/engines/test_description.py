"""From scores to a packed context: the steps that every engine takes."""

import pytest
import torch
from safetensors.torch import load, save

from lookonce_pruning import ImageScores, Rope, UnknownSelectionError, compress, query_rows, rotate_keys
from lookonce_server.engines.control_tokens import Rendered
from lookonce_server.engines.description import LayerRows, PackedPrompt, pack_prompt, pack_rows
from lookonce_server.engines.prompts import DescribeTurn

LAYERS, HEADS, TOKENS, DIM = 3, 2, 12, 4
IMAGE = torch.arange(3, 9)  # of a prompt of 12 tokens
SCORES = ImageScores(torch.tensor([[0.0, 5, 1, 4, 2, 3]] * LAYERS), (0, 1, 2), (2, 3), LAYERS)
ROPE = Rope(torch.tensor([[1.0, 0.1]]))


def packed(**changes) -> PackedPrompt:
    keys = torch.arange(LAYERS * HEADS * TOKENS * DIM, dtype=torch.float32).view(LAYERS, HEADS, TOKENS, DIM)
    layout = {"prompt_length": 11, "image_positions": IMAGE, "rope": ROPE, "next_position": 11}
    return pack_prompt(SCORES, keys, -keys, **{"selection": "attention", "retention": 0.5} | layout | changes)


def test_the_image_tokens_with_the_highest_scores_are_kept():
    result = packed()
    assert result.kept.tolist() == [[1, 3, 5]]
    assert result.kept.dtype == torch.int32
    assert result.scores.tolist() == [0, 5, 1, 4, 2, 3]
    assert (result.grid, result.position_shift) == ((2, 3), -3)
    columns = [0, 1, 2, 4, 6, 8, 9, 10]
    assert torch.equal(result.values[0, 0, :, 0], torch.tensor(columns) * -float(DIM))
    assert torch.equal(result.keys, rotate_keys(-result.values, ROPE, -3))


def test_it_packs_as_compress_does_and_for_each_layer():
    for selection in ("coverage", "attention-per-layer", "uniform"):
        result = packed(selection=selection, retention=0.34)
        layout = {"prompt_length": 11, "image_positions": IMAGE, "rope": ROPE, "next_position": 11}
        keys = torch.arange(LAYERS * HEADS * TOKENS * DIM, dtype=torch.float32).view(LAYERS, HEADS, TOKENS, DIM)
        expected = compress(keys, -keys, kept=result.kept.long(), **layout)
        assert torch.equal(result.keys, expected.keys)
        assert torch.equal(result.values, expected.values)
        assert result.kept.shape[1] == 3


def test_what_is_read_row_by_row_is_packed_alike_and_nothing_else_is_read():
    keys = torch.randn(LAYERS, HEADS, TOKENS, DIM)
    read = []

    def rows(layer, positions):
        read.append(len(positions))
        return LayerRows(keys[layer][:, positions], -keys[layer][:, positions])

    for rope in (ROPE, Rope(torch.rand(LAYERS, 2))):
        for selection in ("coverage", "attention-per-layer"):
            options = {"selection": selection, "retention": 0.34, "prompt_length": 11, "image_positions": IMAGE}
            options |= {"rope": rope, "next_position": 14}
            expected, found = pack_prompt(SCORES, keys, -keys, **options), pack_rows(SCORES, rows, **options)
            for one, other in zip(found.as_tensors().values(), expected.as_tensors().values(), strict=True):
                assert torch.equal(one, other)
    assert read == [5 + 3] * LAYERS * 4


def test_a_file_gives_back_what_was_packed():
    result = packed()
    again = PackedPrompt.of_tensors(load(save(result.as_tensors())))
    assert (again.grid, again.position_shift) == (result.grid, result.position_shift)
    for name in ("keys", "values", "kept", "scores"):
        assert torch.equal(getattr(again, name), getattr(result, name))


def test_a_description_has_no_token_before_the_image():
    """As many of the prefix's as the prompt begins with: a processor may change the last one."""
    result = packed()
    turn = DescribeTurn(Rendered("", [], False, False), [7, 8, 9, 1], (7, 8, 9), "digest", "Describe it.")
    for ids, prefix in (([7, 8, 9, *range(8)], 3), ([7, 8, *range(9)], 2), ([*range(11)], 0)):
        description = result.describe("  a red circle ", turn, ids)
        assert description.num_prefix_tokens == prefix
        assert torch.equal(description.keys, result.keys[:, :, prefix:])
        assert torch.equal(description.values, result.values[:, :, prefix:])
        assert (description.text, description.template_digest) == ("a red circle", "digest")
        assert description.prompt_tokens == 11


def test_an_unknown_selection_is_named():
    with pytest.raises(UnknownSelectionError, match="nothing"):
        packed(selection="nothing")


def test_the_rows_that_score():
    for rows, expected in (("generated", range(9, 15)), ("query", range(6, 10)), ("both", range(6, 15))):
        assert query_rows(rows, query_start=6, prompt_length=10, total=15) == expected
    with pytest.raises(ValueError, match="'other': expected 'generated', 'query' or 'both'"):
        query_rows("other", query_start=6, prompt_length=10, total=15)
