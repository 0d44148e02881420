"""The checkpoint is an ordinary one: small, in the names that engines read, and whole."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from lookonce_scenes import CHECKPOINT
from lookonce_scenes.model import build_model, normalise, save_checkpoint
from lookonce_scenes.tokenizer import BOS, EOS, GRID, IMAGE_TOKENS, PAD
from lookonce_scenes.world import IMAGE_SIZE, render, sample_scene

MIB = 2**20


@pytest.fixture(scope="module")
def model(tokenizer) -> LlavaForConditionalGeneration:
    torch.manual_seed(1)
    return build_model(len(tokenizer))


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    save_checkpoint(model, folder)
    return folder


def names_and_dtypes(folder) -> dict[str, torch.dtype]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 - not a dict


@pytest.fixture(params=["fresh", "bundled"])
def folder(request, saved):
    return saved if request.param == "fresh" else CHECKPOINT


def test_the_tower_has_the_names_that_vllm_reads(folder):
    tower = [name for name in names_and_dtypes(folder) if name.startswith("vision_tower.")]
    assert "vision_tower.vision_model.embeddings.patch_embedding.weight" in tower
    assert all(name.startswith("vision_tower.vision_model.") for name in tower)
    assert not any("vision_model.vision_model" in name for name in tower)


def test_it_is_small_and_in_bfloat16(folder):
    assert sum(file.stat().st_size for file in folder.iterdir()) < 12 * MIB
    assert set(names_and_dtypes(folder).values()) == {torch.bfloat16}


def test_the_config_says_what_the_weights_are(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["dtype"] == "bfloat16"
    assert "lookonce" not in json.dumps(config)  # the training's own attention is not for others


def test_it_loads_back_with_the_same_weights(model, saved):
    loaded = AutoModelForImageTextToText.from_pretrained(saved, dtype="auto")
    assert isinstance(loaded, LlavaForConditionalGeneration)
    assert loaded.dtype == torch.bfloat16
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, weights in before.items():
        assert torch.equal(weights.bfloat16(), after[name]), name


def test_saving_leaves_the_model_as_it_was(model):
    assert model.dtype == torch.float32


def test_float32_can_be_kept(model, tmp_path):
    save_checkpoint(model, tmp_path, torch.float32)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="auto")
    assert all(torch.equal(w, loaded.state_dict()[n]) for n, w in model.state_dict().items())


def test_generation_is_greedy_and_ends(folder):
    config = AutoModelForImageTextToText.from_pretrained(folder).generation_config
    assert not config.do_sample
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (BOS, EOS, PAD)


def test_the_processor_shows_the_tower_what_training_showed_it(folder):
    pixels = np.stack([render(sample_scene(seed)) for seed in range(3)])
    processor = AutoProcessor.from_pretrained(folder)
    made = processor.image_processor([Image.fromarray(p) for p in pixels], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(made, normalise(torch.from_numpy(pixels)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(112, 112), (640, 480), (30, 200)])
def test_any_picture_becomes_the_same_number_of_tokens(processor, size):
    inputs = processor(text=["<image>"], images=[Image.new("RGB", size)], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert (inputs["input_ids"] == processor.image_token_id).sum() == IMAGE_TOKENS == GRID**2


def test_a_fresh_model_starts_undecided(model, tokenizer):
    """Logits near zero everywhere: no answer is favoured before training."""
    ids = torch.tensor([tokenizer.encode("What color is it?", add_special_tokens=False)])
    with torch.inference_mode():
        logits = model(input_ids=ids).logits
    assert logits.std() < 1
    assert logits.shape[-1] % 16 == 0
