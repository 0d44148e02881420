"""Families that cannot be served are refused by their configuration alone, in one sentence each."""

import json

import pytest
import torch
from transformers import (
    Blip2Config,
    Florence2Config,
    Gemma3nConfig,
    Gemma4Config,
    Gemma4UnifiedConfig,
    InstructBlipConfig,
    Llama4Config,
    MllamaConfig,
    PaliGemmaConfig,
    Phi4MultimodalConfig,
)

from lookonce_pruning import UnsupportedModelError, check_architecture
from lookonce_server.engines.checkpoint import find_checkpoint
from lookonce_server.engines.families import REFUSALS
from lookonce_server.engines.transformers.loading import load_model
from lookonce_server.errors import ModelRefusedError

from ....support.snippets import ROOT

PUBLISHED = (
    Blip2Config,
    Florence2Config,
    Gemma3nConfig,
    Gemma4Config,
    Gemma4UnifiedConfig,
    InstructBlipConfig,
    Llama4Config,
    MllamaConfig,
    PaliGemmaConfig,
    Phi4MultimodalConfig,
)


@pytest.fixture
def refusal_of(tmp_path):
    """What is said of a checkpoint with this configuration."""

    def refuse(**config) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelRefusedError) as refused:
            find_checkpoint(str(tmp_path))
        return str(refused.value)

    return refuse


def test_each_family_is_refused_in_a_sentence_with_its_class_and_reason_and_another_family(refusal_of):
    for model_type, refusal in REFUSALS.items():
        said = refusal_of(model_type=model_type, architectures=["SomeClass"])
        assert "(SomeClass) cannot be served by image re-prompting: " in said
        assert f"{refusal.reason}. Use instead: {refusal.instead}." in said
        assert "\n" not in said
        assert len(said) < 450


def test_the_families_are_those_that_transformers_knows(refusal_of):
    for config in PUBLISHED:
        assert config.model_type in REFUSALS
    assert "kimi_k25" in REFUSALS  # its code is the checkpoint's own


def test_the_docs_have_the_table():
    page = (ROOT / "docs" / "models.md").read_text()
    for model_type, refusal in REFUSALS.items():
        assert f"| {refusal.family} | `{model_type}` | {refusal.reason} | {refusal.instead} |\n" in page


def test_what_no_family_can_have_is_refused_whatever_it_is_called(refusal_of):
    for config, reason in (
        ({"text_config": {"kv_lora_rank": 512}}, "latents"),
        ({"language_config": {"kv_lora_rank": 512, "use_mla": True}}, "latents"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"text_config": {"cross_attention_layers": [3, 8]}}, "cross-attention"),
        ({"text_config": {"num_kv_shared_layers": 2}}, "no keys of their own"),
    ):
        assert reason in refusal_of(model_type="brand-new", **config)


def test_what_the_table_says_of_gemma_and_phi_is_so():
    """As their classes are by default, which are those of published checkpoints."""
    assert Gemma3nConfig().text_config.num_kv_shared_layers
    for kind in (Gemma4Config, Gemma4UnifiedConfig):
        with pytest.raises(UnsupportedModelError, match="its layers have heads of 256 and 512 dimensions"):
            check_architecture(kind().text_config)


def test_what_is_not_in_the_table_is_left_to_the_loader(tmp_path):
    for content in (
        '{"model_type": "llava"}',
        '{"language_config": {"kv_lora_rank": 9, "use_mla": false}}',
        "[",
        "[1]",
    ):
        (tmp_path / "config.json").write_text(content)
        assert find_checkpoint(str(tmp_path)) == tmp_path


def test_a_template_made_by_hand_changes_nothing(tmp_path):
    """Nor is anything loaded: there are no weights."""
    PaliGemmaConfig(architectures=["PaliGemmaForConditionalGeneration"]).save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ModelRefusedError, match=r"\(PaliGemmaForConditionalGeneration\) .*prefix-LM attention"):
        load_model(str(tmp_path), dtype=torch.float32, device="cpu")
