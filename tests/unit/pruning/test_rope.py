from __future__ import annotations

import pytest
import torch
from transformers import (
    CohereConfig,
    DynamicCache,
    FalconH1Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GlmConfig,
    Lfm2Config,
    LlamaConfig,
    Ministral3Config,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Mistral4Config,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolLM3Config,
    StableLmConfig,
)

from lookonce_pruning import (
    Rope,
    UnsupportedModelError,
    attention_layers,
    check_architecture,
    check_rotation,
    count_recurrent_layers,
    empty_cache,
    find_rope,
    find_window,
    last_position,
    rope_of_config,
    rotate_keys,
    trained_length,
)

from ...support.tiny_models import CLIP, IMAGE, TEXT

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
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 256,
}
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
    rotated = rotate_keys(keys_at(tiny, positions), find_rope(tiny.model), delta)
    # The model's float32 angles err by up to 1e-4 radians at position 1900.
    torch.testing.assert_close(
        rotated, keys_at(tiny, positions + delta), atol=2e-3 if delta > 1000 else 2e-5, rtol=1e-4
    )


def test_one_delta_moves_all_components_of_mrope(qwen2_vl):
    tiny = qwen2_vl
    positions = torch.tensor([[[2, 2, 2, 9]], [[2, 2, 3, 9]], [[2, 3, 2, 9]]])
    rotated = rotate_keys(keys_at(tiny, positions), find_rope(tiny.model), -2)
    torch.testing.assert_close(rotated, keys_at(tiny, positions - 2), atol=2e-5, rtol=1e-4)


def test_partial_rotary_leaves_the_rest(llava_with):
    tiny = llava_with(
        StableLmConfig, rope_parameters={"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}
    )
    rope, positions = find_rope(tiny.model), torch.arange(5)
    assert rope.inv_freq.shape == (1, 4)  # of 16 dimensions 8 turn
    keys = keys_at(tiny, positions)
    rotated = rotate_keys(keys, rope, 11)
    torch.testing.assert_close(rotated, keys_at(tiny, positions + 11), atol=2e-5, rtol=1e-4)
    assert torch.equal(rotated[..., 8:], keys[..., 8:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept_and_zero_changes_nothing(dtype):
    keys = torch.randn(2, 3, 5, 16).to(dtype)
    for rope in (Rope(torch.rand(1, 6)), Rope(torch.rand(1, 6), interleaved=True), Rope(torch.rand(2, 6))):
        rotated = rotate_keys(keys, rope, 0)
        assert rotated.dtype == dtype
        assert torch.equal(rotated, keys)


def test_too_many_frequencies():
    with pytest.raises(ValueError, match="inv_freq of 9"):
        rotate_keys(torch.zeros(1, 16), Rope(torch.rand(1, 9)), 1)


@pytest.mark.parametrize("shape", [(3, 2, 5, 16), (2, 5, 16)])
def test_layers_that_rotate_differently_need_keys_of_as_many(shape):
    with pytest.raises(ValueError, match="the first of 2 layers"):
        rotate_keys(torch.zeros(shape), Rope(torch.rand(2, 8)), 1)


@pytest.mark.parametrize("parameters", [LLAMA3, YARN], ids=["llama3", "yarn"])
def test_scaled_rope_rotates_too(llava_with, parameters):
    tiny = llava_with(LlamaConfig, rope_parameters=parameters, max_position_embeddings=1024)
    check_rotation(tiny.model, find_rope(tiny.model))


def test_every_family_passes_the_check(tiny):
    check_rotation(tiny.model, find_rope(tiny.model))


PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(LlamaConfig, LLAMA3), (LlamaConfig, YARN), (LlamaConfig, LINEAR), (StableLmConfig, PARTIAL)],
    ids=["llama3", "yarn", "linear", "partial"],
)
def test_the_configuration_tells_the_models_own_frequencies(llava_with, config, parameters):
    tiny = llava_with(config, rope_parameters=parameters)
    expected = find_rope(tiny.model)
    found = rope_of_config(tiny.model.config.get_text_config())
    torch.testing.assert_close(found.inv_freq, expected.inv_freq, atol=0, rtol=1e-6)
    assert found.interleaved == expected.interleaved


def test_the_configuration_of_every_family_tells_its_frequencies(tiny):
    expected = find_rope(tiny.model)
    found = rope_of_config(tiny.model.config.get_text_config())
    torch.testing.assert_close(found.inv_freq, expected.inv_freq, atol=0, rtol=1e-6)
    assert found.interleaved == expected.interleaved


def test_rope_that_depends_on_the_length_is_refused(llava_with):
    tiny = llava_with(LlamaConfig, rope_parameters=LONGROPE, max_position_embeddings=1024)
    with pytest.raises(UnsupportedModelError, match="RoPE type 'longrope', whose frequencies change with the length"):
        find_rope(tiny.model)
    with pytest.raises(UnsupportedModelError, match="RoPE type 'longrope', whose frequencies change with the length"):
        rope_of_config(tiny.model.config.get_text_config())


def test_dynamic_rope_is_plain_up_to_the_trained_length(llava_with):
    tiny = llava_with(LlamaConfig, rope_parameters=DYNAMIC, max_position_embeddings=256)
    plain = llava_with(LlamaConfig, max_position_embeddings=256)
    text = tiny.model.config.get_text_config()
    for rope in (find_rope(tiny.model), rope_of_config(text)):
        torch.testing.assert_close(rope.inv_freq, find_rope(plain.model).inv_freq, atol=0, rtol=1e-6)
    check_rotation(tiny.model, find_rope(tiny.model))
    assert trained_length(text) == last_position(text) + 1 == 256
    assert trained_length(plain.model.config.get_text_config()) is None
    beyond = rotate_keys(keys_at(tiny, torch.arange(200, 210)), find_rope(tiny.model), 300)
    assert not torch.allclose(beyond, keys_at(tiny, torch.arange(500, 510)), atol=0.1)


# --- which dimensions turn together, and by which frequencies: both are measured --------------------------------------

GEMMA = {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 32}
THETAS = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e2},
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neighbouring_dimensions_that_turn_together_are_found(llava_with, dtype):
    """As in GLM's and Cohere's models."""
    for config, options in (
        (GlmConfig, {"head_dim": 16, "rope_parameters": PARTIAL}),
        (CohereConfig, {}),
    ):
        tiny = llava_with(config, **options)
        tiny.model.to(dtype)
        rope = find_rope(tiny.model)
        assert rope.interleaved
        check_rotation(tiny.model, rope)
        with pytest.raises(UnsupportedModelError, match="layer 0: keys moved by 61 positions are off"):
            check_rotation(tiny.model, rope._replace(interleaved=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_layers_own_frequencies_are_found(llava_with, dtype):
    """As in Gemma 3's: the layers with a window have another base."""
    tiny = llava_with(Gemma3TextConfig, rope_parameters=THETAS, **GEMMA)
    tiny.model.to(dtype)
    rope = find_rope(tiny.model)
    rotary = tiny.model.get_decoder().rotary_emb
    local, full = rotary.sliding_attention_inv_freq, rotary.full_attention_inv_freq
    assert torch.equal(rope.inv_freq, torch.stack([local, full, local, full]))
    check_rotation(tiny.model, rope)
    with pytest.raises(UnsupportedModelError, match="layer 1: keys moved"):
        check_rotation(tiny.model, Rope(local[None]))
    with pytest.raises(UnsupportedModelError, match="2 sets of RoPE parameters"):
        rope_of_config(tiny.model.config.get_text_config())


def test_a_layer_without_positions_stays_as_it_is(llava_with):
    tiny = llava_with(SmolLM3Config, no_rope_layers=[1, 1, 0, 1])
    rope = find_rope(tiny.model)
    assert rope.inv_freq.any(dim=1).tolist() == [True, True, False, True]
    check_rotation(tiny.model, rope)


def test_layers_that_a_context_cannot_hold_are_refused():
    several_states = Qwen3_5TextConfig(num_hidden_layers=8)
    several_states.number_of_conv_states = 3
    for config, reason in (
        (Qwen3_5TextConfig(num_hidden_layers=2), "all of its layers are recurrent"),
        (
            Lfm2Config(num_hidden_layers=3, layer_types=["conv", "full_attention", "linear_attention"]),
            "2 of its 3 layers are recurrent: a context holds one kind .* not conv and linear_attention",
        ),
        (
            Lfm2Config(num_hidden_layers=3, layer_types=["conv", "full_attention", "sliding_attention"]),
            "1 of its 3 layers are recurrent: .* not conv and sliding_attention",
        ),
        (several_states, "its recurrent layers keep 3 states each, of which a context holds one"),
        (FalconH1Config(num_hidden_layers=2), r"2 of its 2 layers \(hybrid\) keep something else than the keys"),
        (Mistral4Config(), r"multi-head latent attention \(MLA\)"),
        (Gemma3nTextConfig(), "its last 15 layers have no keys of their own"),
        (Gemma4TextConfig(num_kv_shared_layers=0), "heads of 256 and 512 dimensions"),
    ):
        with pytest.raises(UnsupportedModelError, match=reason):
            check_architecture(config)
    for fine in (LlamaConfig(), Gemma3TextConfig(), Qwen3VLConfig().text_config, Qwen3_5TextConfig()):
        check_architecture(fine)


def test_layers_with_attention_are_told_from_recurrent_ones():
    types = ["conv", "full_attention", "conv", "conv", "full_attention"]
    for config, layers in (
        (LlamaConfig(num_hidden_layers=3), (0, 1, 2)),
        (Gemma3TextConfig(num_hidden_layers=2), (0, 1)),
        (Qwen3_5TextConfig(num_hidden_layers=8), (3, 7)),
        (Lfm2Config(num_hidden_layers=5, layer_types=types), (1, 4)),
    ):
        assert attention_layers(config) == layers
        assert count_recurrent_layers(config) == config.num_hidden_layers - len(layers)
        cache = empty_cache(config)
        assert [hasattr(layer, "keys") for layer in cache.layers] in (
            [],
            [i in layers for i in range(len(cache.layers))],
        )


def test_the_window_is_that_of_layers_that_have_one():
    assert find_window(Gemma3TextConfig(sliding_window=1024)) == 1024
    assert find_window(MistralConfig(sliding_window=64)) == 64
    for config in (MistralConfig(sliding_window=None), LlamaConfig(), Qwen2Config(use_sliding_window=False)):
        assert find_window(config) is None


def test_no_rope_is_refused(llava):
    rotary = llava.model.model.language_model.rotary_emb
    inv_freq = rotary.inv_freq
    del rotary.inv_freq
    try:
        with pytest.raises(UnsupportedModelError, match="no rotary"):
            find_rope(llava.model)
    finally:
        rotary.inv_freq = torch.nn.Buffer(inv_freq, persistent=False)


# --- the last of the model's positions --------------------------------------------------------------------------------


def ministral3(**options) -> PreTrainedModel:
    """A tiny Ministral 3: the text model scales queries by how many times their position fits its original length."""
    config = Mistral3Config(
        text_config=Ministral3Config(**TEXT, head_dim=16, **options),
        vision_config=PixtralVisionConfig(**{name: CLIP[name] for name in CLIP if name != "projection_dim"}),
        image_token_index=IMAGE,
    )
    torch.manual_seed(0)
    return Mistral3ForConditionalGeneration(config).eval()


def scaled(original: int) -> dict[str, object]:
    return YARN | {"original_max_position_embeddings": original, "llama_4_scaling_beta": 0.1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("original", "last", "grown"), [(16384, 262144, r"1\.27"), (1024, 2048, r"1\.0[67]")])
def test_queries_scaled_by_their_absolute_position_are_refused(dtype, original, last, grown):
    model = ministral3(max_position_embeddings=last, rope_parameters=scaled(original)).to(dtype)
    told = rf"layer 0: queries are {grown}\d times as long {last - 8} positions later"
    with pytest.raises(UnsupportedModelError, match=told):
        check_rotation(model, find_rope(model))


def test_queries_that_would_be_scaled_beyond_the_last_position_are_not(llava_with):
    model = ministral3(max_position_embeddings=2048, rope_parameters=scaled(2048))
    check_rotation(model, find_rope(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [40, 131072, 10 * 2**20])
def test_text_models_pass_at_their_last_positions(llava_with, dtype, last):
    for config, options in (
        (LlamaConfig, {}),
        (LlamaConfig, {"rope_parameters": LLAMA3}),
        (Qwen2Config, {}),
        (Qwen3Config, {"head_dim": 16}),
        (MistralConfig, {"sliding_window": None}),
    ):
        model = llava_with(config, max_position_embeddings=last, **options).model.to(dtype)
        check_rotation(model, find_rope(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_interleaved_mrope_passes_at_its_last_positions(dtype):
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 16, "max_position_embeddings": 262144, "rope_parameters": rope},
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": 4,
            "out_hidden_size": 64,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 16,
        },
        image_token_id=IMAGE,
    )
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config).eval().to(dtype)
    check_rotation(model, find_rope(model))


def test_frequencies_that_change_far_out_are_found(llava_with):
    """Whatever a model calls them: here they are halved beyond position 1000."""
    tiny = llava_with(LlamaConfig, max_position_embeddings=4096)
    rotary = tiny.model.model.language_model.rotary_emb
    forward = rotary.forward

    def switching(x, position_ids):
        return forward(x, torch.where(position_ids > 1000, position_ids / 2, position_ids))

    rotary.forward = switching
    with pytest.raises(UnsupportedModelError, match="layer 0: keys moved by 4088 positions are off"):
        check_rotation(tiny.model, find_rope(tiny.model))


def test_the_last_position_is_one_that_float32_can_tell():
    assert last_position(LlamaConfig(max_position_embeddings=4096)) == 4095
    assert last_position(LlamaConfig(max_position_embeddings=10 * 2**20)) == 2**20 - 1
