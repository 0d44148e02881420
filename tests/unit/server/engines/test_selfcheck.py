"""The start-up self-check: accepts what re-prompting is exact on, and refuses the rest with the reason."""

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CohereConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Ministral3Config,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3_5TextConfig,
    SmolLM3Config,
)

from lookonce_server.engines import join
from lookonce_server.engines.join import lay_out
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.loading import LoadedModel
from lookonce_server.engines.transformers.selfcheck import check_model, find_join_problem
from lookonce_server.errors import ModelRefusedError

from ....support.checkpoint_copies import copy_checkpoint
from ....support.samples import PLAN, PROMPT, TENANT, picture

TEXT = {
    "vocab_size": 1872,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,  # peaked attention: a wrong position must show
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture
def llava_around(loaded):
    """A tiny LLaVA with random weights around a text model, behind the bundled model's processor."""

    def build(text: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> LoadedModel:
        torch.manual_seed(0)
        vision = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=112,
            patch_size=8,
            projection_dim=16,
        )
        config = LlavaConfig(
            text_config=text,
            vision_config=vision,
            image_token_index=loaded.model.config.image_token_id,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
        with torch.inference_mode(False):
            model = LlavaForConditionalGeneration(config).eval().to(dtype)
        return LoadedModel(model, loaded.processor, "0" * 64, "0" * 64)

    return build


def test_the_bundled_model_is_accepted(loaded):
    check_model(loaded, PROMPT)
    assert find_join_problem(loaded, PROMPT) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [LlamaConfig, Qwen2Config])
def test_rotary_models_are_accepted(llava_around, family, dtype):
    model = llava_around(family(**TEXT), dtype)
    check_model(model, PROMPT)
    assert find_join_problem(model, PROMPT) is None


def test_windows_layers_without_positions_and_dynamic_rope_are_accepted(llava_around):
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    for text in (
        MistralConfig(**TEXT, sliding_window=1024),
        SmolLM3Config(**TEXT, no_rope_layers=[1, 0, 1]),
        LlamaConfig(**TEXT, max_position_embeddings=1024, rope_parameters=dynamic),
        CohereConfig(**TEXT),
    ):
        model = llava_around(text)
        check_model(model, PROMPT)
        assert find_join_problem(model, PROMPT) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (MistralConfig(**TEXT, sliding_window=64), "sliding attention window of 64 tokens is shorter"),
        (
            LlamaConfig(**TEXT, max_position_embeddings=64,
                        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8,
                                         "long_factor": [4.0] * 8, "original_max_position_embeddings": 32}),
            "RoPE type 'longrope', whose frequencies change with the length",
        ),
        (
            Qwen3_5TextConfig(**TEXT, layer_types=["linear_attention"] * 3),
            "all of its layers are recurrent: none has attention by which tokens are chosen",
        ),
        (
            Ministral3Config(**TEXT, head_dim=16, max_position_embeddings=8192, sliding_window=None,
                             rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0,
                                              "original_max_position_embeddings": 4096, "llama_4_scaling_beta": 0.1}),
            "layer 0: queries are 1.069 times as long 8184 positions later: they are scaled by their absolute position",
        ),
    ],
    ids=["mistral-short-window", "llama-longrope", "qwen3.5-recurrent", "ministral3-scaling"],
)  # fmt: skip
def test_models_on_which_it_is_not_exact_are_refused_with_the_reason(llava_around, text, why):
    with pytest.raises(ModelRefusedError, match=why):
        check_model(llava_around(text), PROMPT)


def test_learned_absolute_positions_are_refused(llava_around):
    """No LLaVA around GPT-2 or OPT can be built, so a rotary one gets a table of positions besides."""
    model = llava_around(LlamaConfig(**TEXT))
    table = torch.randn(2048, TEXT["hidden_size"], generator=torch.Generator().manual_seed(0))

    def with_positions(module, arguments, options):
        return arguments, options | {"inputs_embeds": options["inputs_embeds"] + table[options["position_ids"]]}

    model.model.model.language_model.register_forward_pre_hook(with_positions, with_kwargs=True)
    with pytest.raises(ModelRefusedError, match="layer 0: keys moved by 61 positions are off"):
        check_model(model, PROMPT)


def test_a_tampered_model_is_refused(llava_around):
    """Positions counted otherwise than the server does: the answer from a context differs from the full pass."""
    refused = llava_around(LlamaConfig(**TEXT))
    layer = refused.model.model.language_model.layers[1].self_attn
    forward = layer.forward

    def looking_back(hidden_states, **options):
        """Attention output that depends on how many tokens came before."""
        output, weights = forward(hidden_states, **options)
        return output * (1 + options["past_key_values"].get_seq_length(0) / 100), weights

    layer.forward = looking_back
    with pytest.raises(ModelRefusedError, match="differs from"):
        check_model(refused, PROMPT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_answers_otherwise_at_its_last_positions_is_refused(llava_around, dtype):
    """Not by its queries or keys, which a check of their own looks at: only an answer there shows it."""
    refused = llava_around(LlamaConfig(**TEXT, max_position_embeddings=4096), dtype)
    layer = refused.model.model.language_model.layers[-1].self_attn  # no keys come after it
    forward = layer.forward

    def far_off(hidden_states, **options):
        """Attention output that depends on where the token stands."""
        output, weights = forward(hidden_states, **options)
        return output * (1 + (options["position_ids"] > 3000)[..., None]), weights

    layer.forward = far_off
    with pytest.raises(ModelRefusedError, match="the full pass, at the model's last positions, by"):
        check_model(refused, PROMPT)


@pytest.mark.parametrize("wrong", ["contexts", "seams", "prefix"])
def test_a_join_that_is_not_exact_is_told(loaded, monkeypatch, wrong):
    def lay_out_wrongly(*arguments, **options):
        layout = lay_out(*arguments, **options)
        value = getattr(layout, wrong)
        return layout._replace(**{wrong: value + 9 if wrong == "prefix" else (value[0] + 9, *value[1:])})

    monkeypatch.setattr(join, "lay_out", lay_out_wrongly)
    assert "neither sees the other by" in find_join_problem(loaded, PROMPT)


def test_a_model_that_cannot_run_the_check_of_joins_cannot_join(loaded, monkeypatch):
    def broken(*arguments, **options):
        raise KeyError("cross_attention")

    monkeypatch.setattr(join, "lay_out", broken)
    assert find_join_problem(loaded, PROMPT) == "Joined contexts could not be checked: KeyError: 'cross_attention'"


@pytest.mark.anyio
async def test_a_model_whose_template_shows_one_image_starts_and_says_why_none_are_joined(tmp_path):
    """It answers from one context."""
    folder = copy_checkpoint(tmp_path / "copy")
    template = folder / "chat_template.jinja"
    text = template.read_text().replace("{{- '<image>' -}}", "{{- '<image>' if turn.first else '' -}}")
    loop = "{%- for message in messages -%}"
    template.write_text(text.replace(loop, loop + "{%- set turn = loop -%}"))
    engine = await TransformersEngine.load(
        str(folder), dtype=torch.float32, device="cpu", describe_prompt=PROMPT, max_running=1
    )
    try:
        assert engine.facts.unjoinable == (
            "Describe turns that follow each other have other tokens than each has alone."
        )
        assert (await engine.describe(picture(1), PLAN, TENANT)).text
    finally:
        await engine.close()
