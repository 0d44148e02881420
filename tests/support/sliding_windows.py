"""Random models with sliding attention windows."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from lookonce_server.engines.transformers.loading import LoadedModel

from .families import SMALL, Family, family_processor

TEXT = {
    "vocab_size": 480,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.2,  # peaked attention: a wrong position must show
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 4096,
}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
GEMMA = Family(
    lambda t: transformers.Gemma3Processor(Gemma3ImageProcessorPil(size=SMALL), t, image_seq_length=16),
    {"image_token": "<soft>", "boi_token": "<boi>", "eoi_token": "<eoi>"},
    "<boi>",
)


def loaded_around(family: Family, build: Callable[[Callable[[str], int]], Any]) -> LoadedModel:
    processor = family_processor(family, "byte level with BOS", prints=False)
    torch.manual_seed(0)
    with torch.inference_mode(False):
        model = build(processor.tokenizer.convert_tokens_to_ids).eval()
    return LoadedModel(model, processor, "0" * 64, "0" * 64)


def gemma3(**options: Any) -> LoadedModel:
    types = ["sliding_attention", "full_attention"] * 2
    text = TEXT | {"head_dim": 32, "query_pre_attn_scalar": 32, "layer_types": types, "sliding_window": 512} | options
    loaded = loaded_around(
        GEMMA,
        lambda id_of: transformers.Gemma3ForConditionalGeneration(
            transformers.Gemma3Config(
                text_config=transformers.Gemma3TextConfig(**text),
                vision_config=transformers.SiglipVisionConfig(**VISION, image_size=28, patch_size=7),
                mm_tokens_per_image=16,
                image_token_index=id_of("<soft>"),
                boi_token_index=id_of("<boi>"),
                eoi_token_index=id_of("<eoi>"),
            )
        ),
    )
    with torch.no_grad():  # else it is zeros, and no image is seen
        loaded.model.model.multi_modal_projector.mm_input_projection_weight.normal_(std=0.3)
    return loaded
