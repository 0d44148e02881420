"""Images in tiles and rows, described, stored and counted: tiny models of random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from lookonce_cache import decode, encode
from lookonce_server.engines.base import DescribePlan, Sampling
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.loading import LoadedModel
from lookonce_server.sessions.context_builder import context_identity, context_of
from lookonce_server.sessions.preview import kept_at_retention, kept_indices

from ....support.families import PROCESSORS, family_processor
from ....support.qwen2_vl import VOCABULARY
from ....support.samples import PROMPT, TENANT, about, picture, read

TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,  # peaked attention: a wrong position must show
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 4096,
}
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
TILES = {"vision_feature_layer": -1, "image_grid_pinpoints": [[28, 56], [56, 28]]}


def around(family: str, build: Callable[[Callable[[str], int]], Any]) -> Callable[[Path], tuple[Any, Any]]:
    """A model of a family and its processor; `build` is told the ids of tokens."""

    def make(folder: Path) -> tuple[Any, Any]:
        processor = family_processor(PROCESSORS[family], "byte level with BOS", prints=False)
        return build(processor.tokenizer.convert_tokens_to_ids), processor

    return make


FAMILIES = {
    "llava next": around("llava next", lambda id_of: transformers.LlavaNextForConditionalGeneration(
        transformers.LlavaNextConfig(
            text_config=transformers.LlamaConfig(**TEXT),
            vision_config=transformers.CLIPVisionConfig(**SMALL, patch_size=14, projection_dim=16),
            image_token_index=id_of("<image>"), **TILES,
        )
    )),
    "llava onevision": around("llava onevision", lambda id_of: transformers.LlavaOnevisionForConditionalGeneration(
        transformers.LlavaOnevisionConfig(
            text_config=transformers.Qwen2Config(**TEXT),
            vision_config=transformers.SiglipVisionConfig(**SMALL, patch_size=14),
            image_token_index=id_of("<image>"), video_token_index=id_of("<video>"),
            vision_feature_select_strategy="full", **TILES,
        )
    )),
    "internvl": around("internvl", lambda id_of: transformers.InternVLForConditionalGeneration(
        transformers.InternVLConfig(
            text_config=transformers.Qwen2Config(**TEXT),
            vision_config=transformers.InternVLVisionConfig(**SMALL | {"image_size": [28, 28]}, patch_size=[7, 7]),
            image_token_id=id_of("<IMG_CONTEXT>"),
        )
    )),
    "idefics 3": around("idefics 3", lambda id_of: transformers.Idefics3ForConditionalGeneration(
        transformers.Idefics3Config(
            text_config=transformers.LlamaConfig(**TEXT), vision_config=SMALL | {"patch_size": 7},
            image_token_id=id_of("<image>"), scale_factor=2,
        )
    )),
    "pixtral": around("pixtral", lambda id_of: transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            text_config=transformers.MistralConfig(**TEXT, sliding_window=None),
            vision_config=transformers.PixtralVisionConfig(
                **SMALL | {"hidden_size": 32, "image_size": 56}, patch_size=14
            ),
            image_token_index=id_of("[IMG]"), vision_feature_layer=-1, vision_feature_select_strategy="full",
        )
    )),
}  # fmt: skip


TILED = {"llava next": 0, "llava onevision": 0, "internvl": 2, "idefics 3": 31, "pixtral": 2}  # text tokens it brings


@pytest.mark.anyio
@pytest.mark.parametrize("family", TILED)
async def test_an_image_in_tiles_is_described_stored_and_counted(family, tmp_path):
    with torch.inference_mode(False):
        model, processor = FAMILIES[family](tmp_path)
    engine = TransformersEngine(LoadedModel(model.eval(), processor, "0" * 64, "0" * 64))
    plan = DescribePlan(PROMPT, 4, "generated", (0, TEXT["num_hidden_layers"]), "coverage", 0.25)
    image, question = picture(1).resize((56, 28)), about("What is it?")
    try:
        description = await engine.describe(image, plan, TENANT)
        identity = context_identity(TENANT, b"", engine.facts, plan, description.template_digest, "native")
        context = context_of(identity, description)
        found = await read(engine.answer([context], question, Sampling(1)))
        full = await read(engine.full(question, [image], Sampling(1), TENANT))
    finally:
        await engine.close()
    assert description.layout is not None
    assert description.layout.tokens == context.image_tokens
    assert decode(encode(context), context.key).layout == context.layout == description.layout.blocks
    assert kept_at_retention(context, 0.25) == kept_indices(context)
    assert kept_at_retention(context, 0.5) != []
    assert found.started.full_prompt_tokens == full.started.prompt_tokens
    brought = full.started.prompt_tokens - len(engine._prompts.full_ids(question)) + 1
    assert brought - context.image_tokens == TILED[family]
