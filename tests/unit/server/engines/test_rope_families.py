"""Families whose keys turn in other ways than Llama's: an answer from a context against plain eager transformers.

The reference is the model itself, its attention eager: the describe prompt is run whole, the rows of the image tokens
that were not kept are deleted from its cache, and what follows the describe turn is run at its original positions.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Turn
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.loading import LoadedModel
from lookonce_server.engines.transformers.selfcheck import check_model, find_join_problem
from lookonce_server.errors import PromptTooLongError
from lookonce_server.sessions.context_builder import context_identity, context_of

from ....support.families import PROCESSORS, SMALL, Family, family_processor, processed
from ....support.samples import PLAN, PROMPT, TENANT, Asked, about, picture, read

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of GLM's processor
]

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
GLM_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 14,
    "image_size": 56,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": TEXT["hidden_size"],
}
GLM_TOKENS = {
    "image_token": "<|image|>",
    "video_token": "<|video|>",
    "image_start_token": "<|begin_of_image|>",
    "image_end_token": "<|end_of_image|>",
    "video_start_token": "<|begin_of_video|>",
    "video_end_token": "<|end_of_video|>",
}
GLM = Family(
    lambda t: transformers.Glm4vProcessor(Glm4vImageProcessorPil(), t, transformers.Glm4vVideoProcessor()),
    GLM_TOKENS,
    "<|begin_of_image|><|image|><|end_of_image|>",
)
GEMMA = Family(
    lambda t: transformers.Gemma3Processor(Gemma3ImageProcessorPil(size=SMALL), t, image_seq_length=16),
    {"image_token": "<soft>", "boi_token": "<boi>", "eoi_token": "<eoi>"},
    "<boi>",
)


def padding(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.PreTrainedTokenizerFast:
    """Cohere's processors pad even what is alone."""
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


AYA = Family(
    lambda t: transformers.AyaVisionProcessor(
        GotOcr2ImageProcessorPil(size=SMALL, crop_to_patches=True, max_patches=4),
        padding(t),
        7,
        28,
        downsample_factor=2,
    ),
    {"image_token": "<image>", "start_of_img_token": "<|START_OF_IMG|>", "end_of_img_token": "<|END_OF_IMG|>"},
    more=("<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL"),
)
COMMAND_A = Family(
    lambda t: transformers.Cohere2VisionProcessor(
        transformers.Cohere2VisionImageProcessor(size=SMALL, patch_size=2, max_patches=4), padding(t)
    ),
    {
        "image_token": "<|IMG_PATCH|>",
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    },
    "<|IMG_PATCH|>",
)
QUESTION = "What color is it?"


def loaded_around(family: Family, build: Callable[[Callable[[str], int]], Any]) -> LoadedModel:
    processor = family_processor(family, "byte level with BOS", prints=False)
    torch.manual_seed(0)
    with torch.inference_mode(False):
        model = build(processor.tokenizer.convert_tokens_to_ids).eval()
    return LoadedModel(model, processor, "0" * 64, "0" * 64)


def internvl3() -> LoadedModel:
    rope = {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}
    return loaded_around(
        PROCESSORS["internvl"],
        lambda id_of: transformers.InternVLForConditionalGeneration(
            transformers.InternVLConfig(
                text_config=transformers.Qwen2Config(**TEXT, rope_parameters=rope),
                vision_config=transformers.InternVLVisionConfig(**VISION, image_size=[28, 28], patch_size=[7, 7]),
                image_token_id=id_of("<IMG_CONTEXT>"),
            )
        ),
    )


def glm(name: str, share: float, sections: list[int]) -> LoadedModel:
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": share, "mrope_section": sections}
    text = TEXT | {"rope_parameters": rope}
    if name == "GlmOcr":
        text["head_dim"] = 32
    return loaded_around(
        GLM,
        lambda id_of: getattr(transformers, f"{name}ForConditionalGeneration")(
            getattr(transformers, f"{name}Config")(
                text_config=text,
                vision_config=GLM_VISION,
                tie_word_embeddings=False,
                **{f"{role.removesuffix('_token')}_token_id": id_of(token) for role, token in GLM_TOKENS.items()},
            )
        ),
    )


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


def cohere(name: str, family: Family, **options: Any) -> LoadedModel:
    """Of four layers, as published: three have a sliding window and RoPE, the last has neither."""
    return loaded_around(
        family,
        lambda id_of: getattr(transformers, f"{name}ForConditionalGeneration")(
            getattr(transformers, f"{name}Config")(
                text_config=transformers.Cohere2Config(**TEXT, sliding_window=512),
                vision_config=transformers.SiglipVisionConfig(
                    **VISION, image_size=28, patch_size=7, vision_use_head=False
                ),
                image_token_id=id_of("<|IMG_PATCH|>"),
                downsample_factor=2,
                **options,
            )
        ),
    )


FAMILIES = {
    "aya vision": lambda: cohere("AyaVision", AYA),
    "command a vision": lambda: cohere("Cohere2Vision", COMMAND_A, alignment_intermediate_size=64),
    "internvl 3": internvl3,
    "glm 4.1v": lambda: glm("Glm4v", 0.5, [2, 3, 3]),
    "glm ocr": lambda: glm("GlmOcr", 1.0, [4, 6, 6]),
    "gemma 3": gemma3,
}


@pytest.mark.parametrize("family", FAMILIES)
async def test_answers_from_contexts_equal_plain_transformers(family):
    loaded = FAMILIES[family]()
    check_model(loaded, PROMPT)
    assert find_join_problem(loaded, PROMPT) is None
    engine = TransformersEngine(loaded, max_running=1)
    try:
        for retention in (1.0, 0.25):
            plan = replace(PLAN, retention=retention, window=(1, 3), max_tokens=4)
            description = await engine.describe(picture(11), plan, TENANT)
            identity = context_identity(TENANT, b"", engine.facts, plan, description.template_digest, "native")
            context = context_of(identity, description)
            answer = await read(engine.answer([context], about(QUESTION), Sampling(8, logprobs=0)))
            pieces = [piece.logprob for piece in answer.pieces if piece.logprob is not None]
            assert len(pieces) >= 4
            expected = plain_logprobs(loaded, context.kept_indices, [piece.token for piece in pieces])
            for piece, logprobs in zip(pieces, expected, strict=True):
                assert piece.token == int(logprobs.argmax())
                assert abs(piece.logprob - float(logprobs[piece.token])) < 1e-4
    finally:
        await engine.close()


@torch.inference_mode()
def plain_logprobs(loaded: LoadedModel, kept: torch.Tensor, answer: list[int]) -> torch.Tensor:
    """The log-probabilities of each token of an answer, [tokens, vocabulary]."""
    model = copy.deepcopy(loaded.model)
    model.set_attn_implementation("eager")
    described = processed(loaded.processor, (Turn("user", (0, PROMPT)),), picture(11))
    asked = (Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", (QUESTION,)))
    length = described["input_ids"].shape[1]
    after = processed(loaded.processor, asked, picture(11))["input_ids"][:, length:]
    cache = DynamicCache()
    model(**described, past_key_values=cache, use_cache=True)
    is_image = described["input_ids"][0] == loaded.model.config.image_token_id
    rows = (~is_image).nonzero().flatten().tolist() + is_image.nonzero().flatten()[kept[0].long()].tolist()
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, sorted(rows)], layer.values[:, :, sorted(rows)]
    deltas = getattr(model.model, "rope_deltas", None)
    first = length + (0 if deltas is None else int(deltas[0]))
    ids = torch.cat([after, torch.tensor([answer[:-1]], dtype=torch.int64)], dim=1)
    positions = torch.arange(first, first + ids.shape[1])[None]
    if deltas is not None:
        positions = positions.expand(3, 1, -1)
    output = model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
    return output.logits[0, -len(answer) :].log_softmax(dim=-1)


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
