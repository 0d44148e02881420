from __future__ import annotations

import pytest
import torch
from transformers import (
    CohereConfig,
    DynamicCache,
    Gemma3TextConfig,
    LlamaConfig,
    SmolLM3Config,
    StableLmConfig,
)

from lookonce_pruning import UnsupportedModelError, check_rotation, find_inv_freq, inv_freq_of_config, rotate_keys

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 256}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}


def keys_at(tiny, positions):
    """The model's own first-layer keys of tokens 0, 1, ... at the given positions [tokens] or [3, 1, tokens]."""
    past = DynamicCache()
    positions = positions if positions.ndim == 3 else positions[None]
    ids = torch.arange(positions.shape[-1])[None]
    tiny.model.model.language_model(ids, position_ids=positions, past_key_values=past, use_cache=True)
    return past.layers[0].keys


@pytest.mark.parametrize("delta", [0, 1, 57, 1900, -3])
def test_rotated_keys_are_the_models_own(tiny, delta):
    positions = torch.tensor([3, 4, 9, 30])
    rotated = rotate_keys(keys_at(tiny, positions), find_inv_freq(tiny.model), delta)
    # The model's float32 angles err by up to 1e-4 radians at position 1900.
    torch.testing.assert_close(
        rotated, keys_at(tiny, positions + delta), atol=2e-3 if delta > 1000 else 2e-5, rtol=1e-4
    )


def test_one_delta_moves_all_components_of_mrope(qwen2_vl):
    tiny = qwen2_vl
    positions = torch.tensor([[[2, 2, 2, 9]], [[2, 2, 3, 9]], [[2, 3, 2, 9]]])
    rotated = rotate_keys(keys_at(tiny, positions), find_inv_freq(tiny.model), -2)
    torch.testing.assert_close(rotated, keys_at(tiny, positions - 2), atol=2e-5, rtol=1e-4)


def test_partial_rotary_leaves_the_rest(llava_with):
    tiny = llava_with(
        StableLmConfig, rope_parameters={"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}
    )
    inv_freq, positions = find_inv_freq(tiny.model), torch.arange(5)
    assert len(inv_freq) == 4  # of 16 dimensions 8 turn
    keys = keys_at(tiny, positions)
    rotated = rotate_keys(keys, inv_freq, 11)
    torch.testing.assert_close(rotated, keys_at(tiny, positions + 11), atol=2e-5, rtol=1e-4)
    assert torch.equal(rotated[..., 8:], keys[..., 8:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept_and_zero_changes_nothing(dtype):
    keys = torch.randn(2, 3, 5, 16).to(dtype)
    rotated = rotate_keys(keys, torch.rand(6), 0)
    assert rotated.dtype == dtype
    assert torch.equal(rotated, keys)


def test_too_many_frequencies():
    with pytest.raises(ValueError, match="inv_freq of 9"):
        rotate_keys(torch.zeros(1, 16), torch.rand(9), 1)


@pytest.mark.parametrize("parameters", [LLAMA3, YARN], ids=["llama3", "yarn"])
def test_scaled_rope_rotates_too(llava_with, parameters):
    tiny = llava_with(LlamaConfig, rope_parameters=parameters, max_position_embeddings=1024)
    check_rotation(tiny.model, find_inv_freq(tiny.model))


def test_every_family_passes_the_check(tiny):
    check_rotation(tiny.model, find_inv_freq(tiny.model))


PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(LlamaConfig, LLAMA3), (LlamaConfig, YARN), (LlamaConfig, LINEAR), (StableLmConfig, PARTIAL)],
    ids=["llama3", "yarn", "linear", "partial"],
)
def test_the_configuration_tells_the_models_own_frequencies(llava_with, config, parameters):
    tiny = llava_with(config, rope_parameters=parameters)
    expected = find_inv_freq(tiny.model)
    torch.testing.assert_close(inv_freq_of_config(tiny.model.config.get_text_config()), expected, atol=0, rtol=1e-6)


def test_the_configuration_of_every_family_tells_its_frequencies(tiny):
    expected = find_inv_freq(tiny.model)
    torch.testing.assert_close(inv_freq_of_config(tiny.model.config.get_text_config()), expected, atol=0, rtol=1e-6)


def test_rope_that_depends_on_the_length_is_refused(llava_with):
    tiny = llava_with(LlamaConfig, rope_parameters=DYNAMIC)
    with pytest.raises(UnsupportedModelError, match="'dynamic'"):
        find_inv_freq(tiny.model)
    with pytest.raises(UnsupportedModelError, match="'dynamic'"):
        inv_freq_of_config(tiny.model.config.get_text_config())


def test_two_sets_of_frequencies_are_refused(llava_with):
    tiny = llava_with(Gemma3TextConfig, head_dim=16)
    with pytest.raises(UnsupportedModelError, match=r"2 different sets|RoPE type"):
        find_inv_freq(tiny.model)
    with pytest.raises(UnsupportedModelError, match="2 sets of RoPE parameters"):
        inv_freq_of_config(tiny.model.config.get_text_config())


def test_no_rope_is_refused(llava):
    rotary = llava.model.model.language_model.rotary_emb
    inv_freq = rotary.inv_freq
    del rotary.inv_freq
    try:
        with pytest.raises(UnsupportedModelError, match="no rotary"):
            find_inv_freq(llava.model)
    finally:
        rotary.inv_freq = torch.nn.Buffer(inv_freq, persistent=False)


@pytest.mark.parametrize(
    ("config", "options", "layer"),
    [(CohereConfig, {}, 0), (SmolLM3Config, {"no_rope_layers": [1, 1, 0, 1]}, 2)],
    ids=["interleaved", "a layer without positions"],
)
def test_check_finds_keys_that_do_not_rotate(llava_with, config, options, layer):
    tiny = llava_with(config, **options)
    with pytest.raises(UnsupportedModelError, match=f"layer {layer}: keys"):
        check_rotation(tiny.model, find_inv_freq(tiny.model))
