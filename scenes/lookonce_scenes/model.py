"""Build and save the bundled model, a small `LlavaForConditionalGeneration`."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from lookonce_scenes.tokenizer import BOS, EOS, IMAGE, IMAGE_TOKENS, PAD, PATCH_SIZE, build_processor
from lookonce_scenes.world import IMAGE_SIZE

WIDTH = 192
HEAD_DIM = 32
LAYERS = 8
VISION_LAYERS = 4


def build_config(vocabulary: int) -> LlavaConfig:
    """Return the configuration: 5.0 M parameters, 196 image tokens.

    A CLIP tower of 4 layers; a Llama of 8 layers with 6 query and 2 key/value heads.
    """
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=6,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=-(-vocabulary // 16) * 16,
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=HEAD_DIM,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        rms_norm_eps=1e-5,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=IMAGE,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )


def build_model(vocabulary: int) -> LlavaForConditionalGeneration:
    """Build a fresh model.

    Output projections start at half scale and embeddings at 0.2, so that a short training settles.
    """
    model = LlavaForConditionalGeneration(build_config(vocabulary))
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        if "patch_embedding" in name:
            std = parameter[0].numel() ** -0.5
        elif "embed" in name:
            std = 0.2
        elif "lm_head" in name:
            std = 0.02
        else:
            writes = any(part in name for part in ("o_proj", "down_proj", "fc2", "out_proj"))
            std = parameter.shape[1] ** -0.5 * (0.5 if writes else 1.0)
        nn.init.normal_(parameter, std=std)
    return model


def save_checkpoint(model: LlavaForConditionalGeneration, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a folder that transformers and vLLM both load."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = copy.deepcopy(model)
    stored.to(dtype)  # type: ignore[arg-type]
    stored.save_pretrained(folder)
    name_as_published(folder / "model.safetensors")
    GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False).save_pretrained(folder)
    build_processor().save_pretrained(folder)
    _fit_crop_size(folder / "processor_config.json")


def name_as_published(file: Path) -> None:
    """Rename a saved LLaVA's weights to what vLLM asks for.

    transformers 5 names the tower's weights `vision_tower.embeddings...`; vLLM asks for the older
    `vision_tower.vision_model.embeddings...`, which transformers still reads: the older name is the one written.

    """
    save_file({_tower_name(n): t for n, t in load_file(file).items()}, file, metadata={"format": "pt"})
    file.chmod(0o644)


def _tower_name(name: str) -> str:
    return name.replace("vision_tower.", "vision_tower.vision_model.") if ".vision_model." not in name else name


def _fit_crop_size(path: Path) -> None:
    # The unused default of 224 would mislead readers that trust crop_size over do_center_crop, as vLLM's profiling
    # does.
    config: dict[str, Any] = json.loads(path.read_text())
    config["image_processor"]["crop_size"] = config["image_processor"]["size"]
    path.write_text(json.dumps(config, indent=2) + "\n")


def normalise(pixels: Tensor) -> Tensor:
    """Pictures as the processor hands them to the tower.

    `[batch, height, width, 3]` uint8 to `[batch, 3, ...]` in -1..1.

    """
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
