from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from lookonce_pruning import Rope, compress, find_rope

QUESTION = [15, 16, 17, 18]
DESCRIPTION = [20, 33, 41]


def stacked(past):
    """The cache as keys and values [layers, kv_heads, tokens, head_dim]."""
    return tuple(torch.stack([getattr(layer, part)[0] for layer in past.layers]) for part in ("keys", "values"))


def cache_of(keys, values):
    past = DynamicCache()
    for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
        past.update(key[None], value[None], layer)
    return past


def compressed(tiny, past, kept):
    return compress(
        *stacked(past),
        prompt_length=tiny.prompt_length,
        image_positions=tiny.image_positions,
        kept=kept,
        rope=find_rope(tiny.model),
        next_position=tiny.next_position,
    )


def gapped(tiny, past, kept):
    """The same tokens at their original positions, cut by a loop that shares nothing with `compress`."""
    dropped = [set(tiny.image_positions.tolist()) - set(tiny.image_positions[row].tolist()) for row in kept]
    cut = []
    for part in stacked(past):
        layers = []
        for layer, states in enumerate(part):
            away = dropped[layer if len(dropped) > 1 else 0]
            layers.append(states[:, [column for column in range(tiny.prompt_length) if column not in away]])
        cut.append(torch.stack(layers))
    return cache_of(*cut)


KEPT = {
    "shared": torch.tensor([[0, 3, 6]]),
    "per layer": torch.tensor([[0, 3], [1, 2], [5, 7], [0, 6]]),
    "none": torch.zeros(1, 0, dtype=torch.int64),
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_packed_equals_gapped(tiny, kept):
    _, past = tiny.describe(DESCRIPTION)
    context = compressed(tiny, past, kept)
    assert context.tokens == tiny.prompt_length - len(tiny.image_positions) + kept.shape[1] == context.keys.shape[2]
    with_gaps = tiny.step(gapped(tiny, past, kept), QUESTION, tiny.next_position).logits
    packed = tiny.step(cache_of(context.keys, context.values), QUESTION, context.tokens).logits
    torch.testing.assert_close(packed, with_gaps, atol=1e-4, rtol=0)
    # The test can fail: the same keys without the rotation give other logits.
    unrotated = tiny.step(gapped(tiny, past, kept), QUESTION, context.tokens).logits
    assert (unrotated - with_gaps).abs().max() > 1e-2


def test_retention_one_equals_the_full_pass(tiny):
    full = tiny.greedy(tiny.prefill()[1], QUESTION, tiny.next_position)
    _, past = tiny.describe(DESCRIPTION)
    context = compressed(tiny, past, torch.arange(len(tiny.image_positions))[None])
    assert context.tokens == tiny.prompt_length
    assert tiny.greedy(cache_of(context.keys, context.values), QUESTION, context.tokens) == full
    assert len(set(full)) > 1


def test_values_are_the_prompts_own(llava):
    _, past = llava.describe(DESCRIPTION)
    context = compressed(llava, past, torch.tensor([[2, 15]]))
    columns = [0, 1, 2, 5, 18, 19, 20, 21, 22, 23]
    assert torch.equal(context.values, stacked(past)[1][:, :, columns])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kept": torch.zeros(3, 2, dtype=torch.int64)}, "kept"),
        ({"kept": torch.zeros(2, dtype=torch.int64)}, "kept"),
        ({"prompt_length": 11}, "prompt_length"),
        ({"prompt_length": 4}, "prompt_length"),
    ],
)
def test_shapes_that_do_not_agree(changed, message):
    arguments = {
        "prompt_length": 10,
        "image_positions": torch.arange(2, 6),
        "kept": torch.zeros(1, 1, dtype=torch.int64),
        "rope": Rope(torch.rand(1, 4)),
        "next_position": 10,
    }
    with pytest.raises(ValueError, match=message):
        compress(torch.zeros(4, 2, 10, 8), torch.zeros(4, 2, 10, 8), **{**arguments, **changed})
