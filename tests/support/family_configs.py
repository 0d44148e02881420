"""Configurations of the families' tiny models, with the fields that each family publishes."""

from collections.abc import Callable
from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast

from .families import TILE_PATCH, TILE_PINPOINTS, TILE_SIDE

LAYERS, HEAD_DIM = 4, 32
POSITIONS = 1024
MROPE_SECTION = [4, 6, 6]  # half of HEAD_DIM together
VISION = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
SPREAD = {"initializer_range": 0.2}
TILES = VISION | {"image_size": TILE_SIDE, "patch_size": TILE_PATCH}
QWEN_VISION = {
    "depth": 2,
    "hidden_size": 64,
    "num_heads": 2,
    "intermediate_size": 96,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 128,
    **SPREAD,
}

QWEN2_5_VISION = QWEN_VISION | {"fullatt_block_indexes": [1], "window_size": 56}
QWEN2_VISION = QWEN_VISION | {"embed_dim": 64, "hidden_size": 128, "mlp_ratio": 2}
del QWEN2_VISION["out_hidden_size"], QWEN2_VISION["intermediate_size"]
QWEN3_VISION = QWEN_VISION | {"patch_size": 16, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}
GLM_TOKENS = {
    "image_token": "<|image|>",
    "video_token": "<|video|>",
    "image_start_token": "<|begin_of_image|>",
    "image_end_token": "<|end_of_image|>",
    "video_start_token": "<|begin_of_video|>",
    "video_end_token": "<|end_of_video|>",
}
OVIS2_MARKS = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")


def text_fields(t: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    """Configure a model."""
    return {
        "vocab_size": len(t),
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": t.bos_token_id,
        "eos_token_id": t.eos_token_id,
        "pad_token_id": t.pad_token_id,
        **SPREAD,
        **more,
    }


def qwen(name: str, vision: dict[str, Any], **rope: Any) -> Callable[[PreTrainedTokenizerFast], Any]:
    """Configure a model."""

    def build(t: PreTrainedTokenizerFast) -> Any:
        rotary = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": MROPE_SECTION, **rope}
        more = {"head_dim": HEAD_DIM} if name.startswith("Qwen3") else {"max_window_layers": LAYERS}
        return getattr(transformers, name)(
            text_config=text_fields(t, rope_parameters=rotary, **more),
            vision_config=vision,
            tie_word_embeddings=False,
            image_token_id=t.convert_tokens_to_ids("<|image_pad|>"),
            video_token_id=t.convert_tokens_to_ids("<|video_pad|>"),
            vision_start_token_id=t.convert_tokens_to_ids("<|vision_start|>"),
            vision_end_token_id=t.convert_tokens_to_ids("<|vision_end|>"),
        )

    return build


def _clip(**options: Any) -> Any:
    return transformers.CLIPVisionConfig(**VISION | options, **SPREAD, projection_dim=64)


def llava(t: PreTrainedTokenizerFast) -> Any:
    """Configure a model."""
    return transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**text_fields(t)),
        vision_config=_clip(image_size=112, patch_size=8),
        image_token_index=t.convert_tokens_to_ids("<image>"),
        image_seq_length=196,
    )


def llava_next(t: PreTrainedTokenizerFast) -> Any:
    """Configure a model."""
    return transformers.LlavaNextConfig(
        text_config=transformers.MistralConfig(**text_fields(t), head_dim=HEAD_DIM, sliding_window=None),
        vision_config=_clip(**TILES),
        image_token_index=t.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=TILE_PINPOINTS,
    )


def llava_onevision(t: PreTrainedTokenizerFast) -> Any:
    """Configure a model."""
    return transformers.LlavaOnevisionConfig(
        text_config=transformers.Qwen2Config(**text_fields(t)),
        vision_config=transformers.SiglipVisionConfig(**TILES, vision_use_head=False),
        image_token_index=t.convert_tokens_to_ids("<image>"),
        video_token_index=t.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=TILE_PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
    )


def internvl(text: Callable[[PreTrainedTokenizerFast], Any]) -> Callable[[PreTrainedTokenizerFast], Any]:
    """Configure a model."""

    def build(t: PreTrainedTokenizerFast) -> Any:
        sides = {"image_size": [TILE_SIDE] * 2, "patch_size": [TILE_PATCH] * 2}
        return transformers.InternVLConfig(
            text_config=text(t),
            vision_config=transformers.InternVLVisionConfig(**VISION | sides, **SPREAD, layer_scale_init_value=1.0),
            image_token_id=t.convert_tokens_to_ids("<IMG_CONTEXT>"),
        )

    return build


def idefics(name: str) -> Callable[[PreTrainedTokenizerFast], Any]:
    """Configure a model."""
    return lambda t: getattr(transformers, name)(
        text_config=transformers.LlamaConfig(**text_fields(t)),
        vision_config=TILES | SPREAD,
        image_token_id=t.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )


def _pixtral_vision() -> Any:
    return transformers.PixtralVisionConfig(
        **VISION, image_size=8 * TILE_PATCH, patch_size=TILE_PATCH, head_dim=HEAD_DIM, **SPREAD
    )


def _mistral_text(t: PreTrainedTokenizerFast) -> Any:
    return transformers.MistralConfig(**text_fields(t), head_dim=HEAD_DIM, sliding_window=None)


def mistral3(t: PreTrainedTokenizerFast) -> Any:
    """Configure a model."""
    return transformers.Mistral3Config(
        text_config=_mistral_text(t),
        vision_config=_pixtral_vision(),
        image_token_index=t.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )


def pixtral(t: PreTrainedTokenizerFast) -> Any:
    """Configure a model."""
    return transformers.LlavaConfig(
        text_config=_mistral_text(t),
        vision_config=_pixtral_vision(),
        image_token_index=t.convert_tokens_to_ids("[IMG]"),
        image_seq_length=1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )


def lighton_ocr(t: PreTrainedTokenizerFast) -> Any:
    """Configure a model."""
    return transformers.LightOnOcrConfig(
        text_config=transformers.Qwen3Config(**text_fields(t), head_dim=HEAD_DIM),
        vision_config=_pixtral_vision(),
        image_token_id=t.convert_tokens_to_ids("<|image_pad|>"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )


def deepseek_vl(t: PreTrainedTokenizerFast) -> Any:
    """Configure a model."""
    return transformers.DeepseekVLConfig(
        text_config=transformers.LlamaConfig(**text_fields(t)),
        vision_config=transformers.SiglipVisionConfig(**TILES, vision_use_head=False),
        image_token_id=t.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
    )


def janus(t: PreTrainedTokenizerFast) -> Any:
    """Configure a model."""
    vision = {"projection_dim": 128, **TILES, **SPREAD}
    codes = {
        "num_embeddings": 16,
        "latent_channels": 32,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "projection_dim": 128,
        "image_token_embed_dim": 128,
        "num_patches": 4,
    }
    return transformers.JanusConfig(
        text_config=transformers.LlamaConfig(**text_fields(t)),
        vision_config=transformers.JanusVisionConfig(**vision),
        vq_config=transformers.JanusVQVAEConfig(**codes),
        image_token_id=t.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
    )


def paddle_ocr(t: PreTrainedTokenizerFast) -> Any:
    """Configure a model."""
    rope = {"rope_type": "default", "rope_theta": 5e5, "mrope_section": MROPE_SECTION}
    return transformers.PaddleOCRVLConfig(
        text_config=text_fields(t, head_dim=HEAD_DIM, rope_parameters=rope, tie_word_embeddings=False),
        vision_config=VISION | {"image_size": 112, "patch_size": 14, "spatial_merge_size": 2},
        image_token_id=t.convert_tokens_to_ids("<|IMAGE_PLACEHOLDER|>"),
        video_token_id=t.convert_tokens_to_ids("<|VIDEO_PLACEHOLDER|>"),
        vision_start_token_id=t.convert_tokens_to_ids("<|IMAGE_START|>"),
        vision_end_token_id=t.convert_tokens_to_ids("<|IMAGE_END|>"),
        tie_word_embeddings=False,
    )


def glm(name: str, share: float, sections: list[int], **more: Any) -> Callable[[PreTrainedTokenizerFast], Any]:
    """Configure a model."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": share, "mrope_section": sections}

    def build(t: PreTrainedTokenizerFast) -> Any:
        return getattr(transformers, f"{name}Config")(
            text_config=text_fields(t, rope_parameters=rope, **more),
            vision_config=QWEN_VISION | {"image_size": 112},
            tie_word_embeddings=False,
            **{
                f"{role.removesuffix('_token')}_token_id": t.convert_tokens_to_ids(text)
                for role, text in GLM_TOKENS.items()
            },
        )

    return build


def gemma3(t: PreTrainedTokenizerFast) -> Any:
    """Configure a model."""
    types = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    text = text_fields(t, head_dim=HEAD_DIM, query_pre_attn_scalar=HEAD_DIM, layer_types=types, sliding_window=512)
    return transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**text),
        vision_config=transformers.SiglipVisionConfig(**VISION, image_size=28, patch_size=7, vision_use_head=False),
        mm_tokens_per_image=4,
        image_token_index=t.convert_tokens_to_ids("<soft>"),
        boi_token_index=t.convert_tokens_to_ids("<boi>"),
        eoi_token_index=t.convert_tokens_to_ids("<eoi>"),
    )


def cohere(name: str, **more: Any) -> Callable[[PreTrainedTokenizerFast], Any]:
    """Configure a model of four layers, as published: three have a sliding window and RoPE, the last has neither."""
    return lambda t: getattr(transformers, name)(
        text_config=transformers.Cohere2Config(**text_fields(t, sliding_window=512)),
        vision_config=transformers.SiglipVisionConfig(**VISION, image_size=28, patch_size=7, vision_use_head=False),
        image_token_id=t.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        **more,
    )


def ovis2(t: PreTrainedTokenizerFast) -> Any:
    """Configure a model."""
    vision = VISION | {"image_size": 32, "patch_size": 4, "hidden_stride": 2, "vocab_size": 32, **SPREAD}
    return transformers.Ovis2Config(
        text_config=text_fields(t),
        vision_config=vision,
        image_token_id=t.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=t.convert_tokens_to_ids(list(OVIS2_MARKS)),
        hidden_size=128,
        vocab_size=len(t),
    )
