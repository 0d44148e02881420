"""Layers with a sliding window: what makes no context, and what is joined closer together."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.loading import LoadedModel
from lookonce_server.errors import PromptTooLongError
from lookonce_server.sessions.context_builder import context_identity, context_of

from ....support.families import SMALL, Family, family_processor
from ....support.samples import PLAN, TENANT, Asked, about, picture, read

pytestmark = pytest.mark.anyio

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
QUESTION = "What color is it?"


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


async def test_an_image_that_fills_a_sliding_window_makes_no_context():
    """Some layers have lost sight of its beginning where its end is. A full pass is the model's own affair."""
    engine = TransformersEngine(gemma3(sliding_window=32), max_running=1)
    try:
        with pytest.raises(PromptTooLongError, match=r"the model's sliding attention window 32: no context"):
            await engine.describe(picture(11), replace(PLAN, window=(1, 3)), TENANT)
        full = await read(engine.full(about(QUESTION), [picture(11)], Sampling(4), TENANT))
        assert full.pieces
    finally:
        await engine.close()


async def test_joined_contexts_that_reach_beyond_a_sliding_window_move_together():
    """As where they would not fit the model's positions: then each is as wide as it has tokens."""

    async def answer(**options: Any) -> Asked:
        engine = TransformersEngine(gemma3(**options), max_running=1)
        plan = replace(PLAN, retention=0.25, window=(1, 3), max_tokens=4)
        try:
            contexts = []
            for seed in (11, 12):
                description = await engine.describe(picture(seed), plan, TENANT)
                identity = context_identity(TENANT, b"", engine.facts, plan, description.template_digest, "native")
                contexts.append(context_of(identity, description))
            return await read(engine.answer(contexts, about(QUESTION, 2), Sampling(4, logprobs=0)))
        finally:
            await engine.close()

    apart = await answer()
    between = apart.started.prompt_tokens + 12  # 24 image tokens are not there
    together = await answer(sliding_window=between)
    assert together.pieces == (await answer(max_position_embeddings=between)).pieces
    assert together.pieces != apart.pieces
