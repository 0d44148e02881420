"""The self-check in vLLM: what contexts cannot be used with is refused before anybody is answered, with the reason."""

import pytest
import torch
from transformers import (
    AyaVisionConfig,
    CLIPVisionConfig,
    Cohere2VisionConfig,
    Llama4TextConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Ministral3Config,
    MistralConfig,
    PaliGemmaConfig,
    Qwen3_5Config,
    Qwen3_5TextConfig,
)

from lookonce_pruning import Rope, UnsupportedModelError
from lookonce_scenes import CHECKPOINT
from lookonce_scenes.model import save_checkpoint
from lookonce_scenes.tokenizer import BOS, EOS, IMAGE, PAD, build_processor
from lookonce_server.engines.vllm import options, selfcheck
from lookonce_server.engines.vllm.positions import check_scaling
from lookonce_server.engines.vllm.support import has_class
from lookonce_server.errors import ModelRefusedError

from .engines import start

pytestmark = pytest.mark.anyio

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}


@pytest.fixture
def checkpoint(tmp_path):
    """Writes a tiny LLaVA with a text model of the test's choice."""

    def write(kind, **changes):
        processor = build_processor()
        size = processor.image_processor.size["height"]
        side = size // processor.patch_size
        text = kind(vocab_size=len(processor.tokenizer), **TEXT | changes)
        vision = CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=size,
            patch_size=processor.patch_size,
        )
        config = LlavaConfig(
            vision_config=vision.to_dict(),
            text_config=text.to_dict(),
            image_token_index=IMAGE,
            image_seq_length=side * side,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )
        torch.manual_seed(0)
        save_checkpoint(LlavaForConditionalGeneration(config), tmp_path, torch.float32)
        return tmp_path

    return write


async def test_a_sliding_window_is_refused(checkpoint):
    folder = checkpoint(MistralConfig, sliding_window=64)
    with pytest.raises(
        ModelRefusedError, match=r"sliding attention window \(64 tokens\).*`--engine transformers` serves"
    ):
        await start(folder)


async def test_dynamic_rope_is_served_up_to_the_trained_length(checkpoint):
    """vLLM itself would take twice as many tokens, with frequencies that it does not change."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    folder = checkpoint(LlamaConfig, rope_parameters=rope, max_position_embeddings=512)
    with pytest.raises(ModelRefusedError, match=r"--vllm-max-model-len=600: beyond 512 tokens .*up to 512\.$"):
        await start(folder, max_model_len=600)
    engine = await start(folder)
    assert engine.facts.max_tokens == 512
    await engine.close()


async def test_recurrent_layers_are_refused_before_vllm_reads_a_weight(tmp_path):
    text = Qwen3_5TextConfig(num_hidden_layers=4).to_dict()
    Qwen3_5Config(text_config=text).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelRefusedError, match=r"3 of its 4 layers are recurrent, .*`--engine transformers` serves"):
        await start(tmp_path)


async def test_cohere_is_left_to_the_transformers_engine(tmp_path):
    for config in (AyaVisionConfig(), Cohere2VisionConfig()):
        config.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(ModelRefusedError, match=r"window \(4096 tokens\).*`--engine transformers` serves"):
            await start(tmp_path)


SCALING = {"llama_4_scaling": {"beta": 0.1, "original_max_position_embeddings": 256}}


async def test_queries_scaled_by_their_absolute_position_are_refused(checkpoint, monkeypatch):
    """Nothing but the layers themselves is asked: the scale begins where no prompt of the self-check arrives."""
    monkeypatch.setattr(options, "CONNECTOR", "Credulous")
    monkeypatch.setattr(options, "CONNECTOR_MODULE", "tests.vllm_engine.guards_off")
    with pytest.raises(ModelRefusedError, match=r"layer 0: queries are 1\.069 times as long 504 positions later"):
        await start(checkpoint(MistralConfig, sliding_window=None, **SCALING))


def test_a_configuration_that_scales_queries_is_refused_where_the_scale_is_reached():
    scales = [
        (MistralConfig(**SCALING), "llama_4_scaling", 256),
        (
            Ministral3Config(
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 1e6,
                    "factor": 16.0,
                    "original_max_position_embeddings": 16384,
                    "llama_4_scaling_beta": 0.1,
                }
            ),
            "llama_4_scaling_beta",
            16384,
        ),
        (Llama4TextConfig(), "attn_temperature_tuning", 8192),
    ]
    for config, name, begin in scales:
        told = rf"from {begin} on \({name}\); up to there it can be served: --vllm-max-model-len {begin}$"
        with pytest.raises(UnsupportedModelError, match=told):
            check_scaling(config, begin)
        check_scaling(config, begin - 1)
    for config in (MistralConfig(), LlamaConfig(), Llama4TextConfig(attn_temperature_tuning=False)):
        check_scaling(config, 10**9)


async def test_keys_that_do_not_turn_as_thought_are_refused(checkpoint, monkeypatch):
    right = selfcheck.rope_of_config
    monkeypatch.setattr(selfcheck, "rope_of_config", lambda config: Rope(right(config).inv_freq * 1.01))
    with pytest.raises(ModelRefusedError, match="layer 0's keys moved by 61 positions are off by"):
        await start(checkpoint(LlamaConfig))


async def test_an_injection_that_leaves_something_out_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr(options, "CONNECTOR", "Forgetful")
    monkeypatch.setattr(options, "CONNECTOR_MODULE", "tests.vllm_engine.guards_off")
    with pytest.raises(ModelRefusedError, match="what follows a context differs from the full pass by"):
        await start(checkpoint(LlamaConfig))


async def test_a_checkpoint_that_vllm_cannot_load_is_refused(tmp_path):
    (tmp_path / "config.json").write_text((CHECKPOINT / "config.json").read_text())
    with pytest.raises(ModelRefusedError, match="vLLM cannot run model"):
        await start(tmp_path)


async def test_a_family_that_cannot_be_served_is_refused_whatever_its_template(tmp_path):
    """vLLM itself runs PaliGemma, and a template can be made by hand."""
    PaliGemmaConfig(architectures=["PaliGemmaForConditionalGeneration"]).save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ModelRefusedError, match=r"\(PaliGemmaForConditionalGeneration\) .*prefix-LM attention"):
        await start(tmp_path)


def test_whether_it_has_a_class():
    assert has_class("LlavaForConditionalGeneration")
    assert not has_class("NoSuchModelForConditionalGeneration")


async def test_pipeline_parallelism_is_refused(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    with pytest.raises(ModelRefusedError, match="Pipeline parallelism is not supported"):
        await start(CHECKPOINT, pipeline_parallel_size=2)
