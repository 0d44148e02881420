"""Tiny models that mix attention layers with recurrent ones, of random weights, behind their families' processors."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lookonce_server.engines.transformers.loading import LoadedModel

from .families import Family, family_processor

LAYERS, ATTENTION = 8, 2
TEXT = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.2,  # peaked attention: a wrong position must show
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 4096,
}
GATED_DELTA_NET = TEXT | {  # of Qwen3.5: one layer in four has attention
    "initializer_range": 0.1,  # with more, sums of many tokens make 1e-4 of what is rounded
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
MROPE = ROPE | {"mrope_section": [3, 3, 2], "mrope_interleaved": True}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
QWEN_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": TEXT["hidden_size"],
    "num_position_embeddings": 64,
}
QWEN_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
QWEN = Family(
    lambda t: transformers.Qwen3VLProcessor(Qwen2VLImageProcessorPil(), t, transformers.Qwen3VLVideoProcessor()),
    QWEN_TOKENS,
    "<|vision_start|><|image_pad|><|vision_end|>",
)
LFM_TOKENS = {
    "image_token": "<image>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "image_thumbnail_token": "<|img_thumbnail|>",
}
LFM_IMAGES = {"tile_size": 64, "encoder_patch_size": 8, "min_image_tokens": 4, "max_image_tokens": 16, "max_tiles": 4}
LFM = Family(
    lambda t: transformers.Lfm2VlProcessor(
        transformers.Lfm2VlImageProcessor(**LFM_IMAGES, size={"height": 64, "width": 64}), t
    ),
    LFM_TOKENS,
    more=tuple(f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)),
)
MINICPM_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
MINICPM = Family(
    lambda t: transformers.MiniCPMV4_6Processor(
        MiniCPMV4_6ImageProcessorPil(max_slice_nums=4, scale_resolution=112),
        transformers.MiniCPMV4_6VideoProcessor(max_slice_nums=1, scale_resolution=112),
        t,
    ),
    MINICPM_TOKENS,
    "<|image_pad|>",
)


def _loaded(family: Family, build: Callable[[Callable[[str], int]], Any]) -> LoadedModel:
    processor = family_processor(family, "byte level with BOS", prints=False)
    processor.tokenizer.pad_token = processor.tokenizer.eos_token
    torch.manual_seed(0)
    with torch.inference_mode(False):
        model = build(processor.tokenizer.convert_tokens_to_ids).eval()
    return LoadedModel(model, processor, "0" * 64, "0" * 64)


def qwen3_5() -> LoadedModel:
    """Linear attention, and M-RoPE of a part of each head."""
    return _loaded(
        QWEN,
        lambda id_of: transformers.Qwen3_5ForConditionalGeneration(
            transformers.Qwen3_5Config(
                text_config=GATED_DELTA_NET | {"rope_parameters": MROPE},
                vision_config=QWEN_VISION,
                **{f"{role}_id": id_of(token) for role, token in QWEN_TOKENS.items()},
            )
        ),
    )


def lfm2_vl() -> LoadedModel:
    """Short convolutions; attention layers are not evenly spaced."""
    types = ["conv"] * LAYERS
    types[2] = types[5] = "full_attention"
    vision = VISION | {"num_patches": 64, "patch_size": 8, "vision_use_head": False}
    return _loaded(
        LFM,
        lambda id_of: transformers.Lfm2VlForConditionalGeneration(
            transformers.Lfm2VlConfig(
                text_config=transformers.Lfm2Config(**TEXT, layer_types=types),
                vision_config=transformers.Siglip2VisionConfig(**vision),
                projector_hidden_size=64,
                image_token_id=id_of("<image>"),
            )
        ),
    )


def minicpm_v4_6() -> LoadedModel:
    """Qwen3.5's text model behind slices of a picture."""
    vision = VISION | {"image_size": 112, "patch_size": 14}
    return _loaded(
        MINICPM,
        lambda id_of: transformers.MiniCPMV4_6ForConditionalGeneration(
            transformers.MiniCPMV4_6Config(
                text_config=transformers.Qwen3_5TextConfig(**GATED_DELTA_NET, rope_parameters=MROPE).to_dict(),
                vision_config=vision,
                insert_layer_id=0,
                image_token_id=id_of("<|image_pad|>"),
                video_token_id=id_of("<|video_pad|>"),
            )
        ),
    )


HYBRIDS: dict[str, Callable[[], LoadedModel]] = {
    "qwen3.5": qwen3_5,
    "lfm2-vl": lfm2_vl,
    "minicpm-v 4.6": minicpm_v4_6,
}
