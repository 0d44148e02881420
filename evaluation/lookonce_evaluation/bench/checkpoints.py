"""Write checkpoints of random weights in published shapes."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
)

from lookonce_scenes.model import name_as_published
from lookonce_scenes.tokenizer import BOS, EOS, IMAGE, PAD, build_processor

PATCH = 14


def write_llava(folder: Path, image_tokens: int) -> Path:
    """Write a LLaVA of 0.9 billion random weights, in bfloat16.

    CLIP ViT-L/14 and a text model of Qwen2-0.5B's shape are those of LLaVA-OneVision-0.5B's size class: 24 layers each,
    14 query and 2 key/value heads of 64.

    Args:
        folder: the checkpoint's folder.
        image_tokens: the number of image tokens, a square; 576 makes images of 336 pixels.
    """
    side = round(image_tokens**0.5)
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=side * PATCH,
        patch_size=PATCH,
        projection_dim=768,
    )
    text = LlamaConfig(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=IMAGE,
        image_seq_length=image_tokens,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    name_as_published(folder / "model.safetensors")
    GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False).save_pretrained(folder)
    processor = build_processor()
    processor.patch_size = PATCH
    size = {"height": side * PATCH, "width": side * PATCH}
    processor.image_processor.size = processor.image_processor.crop_size = size
    processor.save_pretrained(folder)
    return folder
