"""The random Qwen2-VL: as large as published, laid out as published, and every text can be said to it."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2VLForConditionalGeneration

from lookonce_evaluation.bench.checkpoints import QWEN2_VL_2B, QWEN2_VL_SMALL, TINY, write_qwen2_vl
from lookonce_evaluation.bench.checkpoints.qwen2_vl_processor import build_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_qwen2_vl(tmp_path_factory.mktemp("qwen2-vl"), TINY)


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder)


def image_tokens(processor, width: int, height: int) -> int:
    made = processor(text=["<|image_pad|>"], images=[Image.new("RGB", (width, height))], return_tensors="pt")
    return int((made["input_ids"] == processor.image_token_id).sum())


def unwritten(shape) -> Qwen2VLForConditionalGeneration:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return Qwen2VLForConditionalGeneration._from_config(shape.config(), dtype=shape.dtype)


def count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_the_true_shape_has_as_many_weights_as_the_published_model():
    model = unwritten(QWEN2_VL_2B)
    assert count(model) == 2_208_985_600  # Qwen2-VL-2B-Instruct
    assert count(model.model.visual) == 665_271_296
    assert model.dtype == torch.bfloat16


def test_the_small_one_has_the_text_model_of_the_published_half_billion():
    model = unwritten(QWEN2_VL_SMALL)
    assert count(model.model.language_model) == 494_032_768  # Qwen2-0.5B
    assert 0.8e9 < count(model) < 0.85e9


def test_it_is_laid_out_as_a_published_checkpoint(folder):
    assert {path.name for path in folder.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {"visual.patch_embed.proj.weight", "model.embed_tokens.weight"} <= set(weights.keys())


def test_it_is_the_same_every_time_and_leaves_the_random_state_alone(folder, tmp_path):
    before = torch.random.get_rng_state()
    again = write_qwen2_vl(tmp_path, TINY)
    assert torch.equal(torch.random.get_rng_state(), before)
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_what_was_asked_for_is_loaded(folder, tmp_path):
    config = AutoModelForImageTextToText.from_pretrained(folder).config
    assert config.text_config.rope_parameters["mrope_section"] == list(TINY.mrope_section)
    assert sum(TINY.mrope_section) == TINY.hidden // TINY.heads // 2
    small = write_qwen2_vl(tmp_path, replace(TINY, layers=1, dtype=torch.bfloat16))
    model = AutoModelForImageTextToText.from_pretrained(small)
    assert model.dtype == torch.bfloat16
    assert len(model.model.language_model.layers) == 1


def test_the_special_tokens_are_where_the_configurations_say(folder, processor):
    config = json.loads((folder / "config.json").read_text())
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    ids = processor.tokenizer.convert_tokens_to_ids
    assert [config[f"{name}_token_id"] for name in ("image", "video", "vision_start", "vision_end")] == ids(
        ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    )
    assert ends == processor.tokenizer.eos_token_id == ids("<|im_end|>")
    assert len(processor.tokenizer) == TINY.vocabulary


def test_the_published_vocabulary_has_its_special_tokens_in_their_places():
    tokenizer = build_tokenizer(QWEN2_VL_2B.words, QWEN2_VL_2B.positions)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    assert tokenizer.convert_tokens_to_ids(names) == [151643, 151644, 151645, 151652, 151653, 151655]
    assert tokenizer.decode([100_000, QWEN2_VL_2B.words - 1]).strip()
    assert tokenizer.encode("red circle", add_special_tokens=False) == build_tokenizer(1010, 8).encode(
        "red circle", add_special_tokens=False
    )


def test_too_few_words_are_refused():
    with pytest.raises(ValueError, match="words 300: the bytes"):
        build_tokenizer(300, 8)


@settings(deadline=None)
@given(st.text())
def test_any_text_round_trips(processor, typed):
    tokenizer = processor.tokenizer
    assert tokenizer.decode(tokenizer.encode(typed, add_special_tokens=False)) == typed


@pytest.mark.parametrize(
    ("size", "tokens"), [((112, 112), 16), ((168, 112), 24), ((1, 1), 4), ((896, 896), 1024), ((1792, 1792), 1024)]
)
def test_the_pictures_size_decides_the_number_of_image_tokens(processor, size, tokens):
    assert image_tokens(processor, *size) == tokens


def test_parts_are_rendered_in_order_and_a_system_turn_is_not_doubled(processor):
    parts = [{"type": "text", "text": "Is "}, {"type": "image"}, {"type": "text", "text": " like "}, {"type": "video"}]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
    ]
    assert processor.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nIs <|vision_start|><|image_pad|><|vision_end|> like "
        "<|vision_start|><|video_pad|><|vision_end|><|im_end|>\n"
        "<|im_start|>assistant\nNo.<|im_end|>\n"
    )
