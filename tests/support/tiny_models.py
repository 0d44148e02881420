"""Tiny models with random weights, one of each family, and a describe prompt for each."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    DynamicCache,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

IMAGE = 7  # the image token's id, in every family
LAYERS = 4
TEXT = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,  # peaked attention: a wrong row or position must show
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLIP = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "projection_dim": 16,
}


@dataclass
class Tiny:
    """A model and the inputs of its describe prompt: text, image tokens, text."""

    model: PreTrainedModel
    input_ids: Tensor
    grid: tuple[int, int]
    extra: dict[str, Any] = field(default_factory=dict)
    next_position: int = 0

    def __post_init__(self) -> None:
        self.next_position = self.next_position or self.prompt_length

    @property
    def prompt_length(self) -> int:
        return self.input_ids.shape[1]

    @property
    def image_positions(self) -> Tensor:
        return (self.input_ids[0] == IMAGE).nonzero().flatten()

    def eager(self) -> PreTrainedModel:
        twin = copy.deepcopy(self.model)
        twin.set_attn_implementation("eager")
        return twin

    def prefill(self, model: PreTrainedModel | None = None, **options: Any) -> tuple[Any, DynamicCache]:
        past = DynamicCache()
        model = model or self.model
        return model(input_ids=self.input_ids, past_key_values=past, **self.extra, **options), past

    def step(
        self, past: DynamicCache, ids: list[int], position: int, model: PreTrainedModel | None = None, **options: Any
    ):
        positions = torch.arange(position, position + len(ids))[None]
        model = model or self.model
        return model(input_ids=torch.tensor([ids]), position_ids=positions, past_key_values=past, **options)

    def greedy(self, past: DynamicCache, ids: list[int], position: int, count: int = 12) -> list[int]:
        """Tokens that follow `ids`, which stand at `position` on top of `past`."""
        tokens: list[int] = []
        for _ in range(count):
            logits = self.step(past, ids, position).logits
            position += len(ids)
            ids = [int(logits[0, -1].argmax())]
            tokens += ids
        return tokens

    def describe(
        self, tokens: list[int], model: PreTrainedModel | None = None, **options: Any
    ) -> tuple[list[Any], DynamicCache]:
        """Prefill, then `tokens` one by one, as decoding does: the outputs of each call and the cache."""
        output, past = self.prefill(model, **options)
        outputs = [output]
        for offset, token in enumerate(tokens):
            outputs.append(self.step(past, [token], self.next_position + offset, model, **options))
        return outputs, past


def build_llava(text: PreTrainedConfig | None = None, tokens: int = 16) -> Tiny:
    config = LlavaConfig(
        text_config=text or LlamaConfig(**TEXT),
        vision_config=CLIPVisionConfig(**CLIP),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config)
    ids = torch.tensor([[3, 4, 5, *[IMAGE] * tokens, 10, 11, 12, 13, 14]])
    return Tiny(model, ids, (4, 4), {"pixel_values": torch.randn(1, 3, 16, 16)})


def build_qwen2_vl() -> Tiny:
    config = Qwen2VLConfig(
        text_config={
            **TEXT,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        },
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2},
        image_token_id=IMAGE,
        video_token_id=8,
        vision_start_token_id=5,
        vision_end_token_id=6,
    )
    model = Qwen2VLForConditionalGeneration(config)
    grid = torch.tensor([[1, 8, 12]])  # patches; 2 x 2 are merged
    ids = torch.tensor([[3, 4, 5, *[IMAGE] * 24, 6, 10, 11, 12, 13]])
    extra = {
        "pixel_values": torch.randn(96, 3 * 2 * 4 * 4),
        "image_grid_thw": grid,
        "mm_token_type_ids": (ids == IMAGE).int(),
    }
    positions, _ = model.model.get_rope_index(ids, image_grid_thw=grid, mm_token_type_ids=extra["mm_token_type_ids"])
    return Tiny(model, ids, (4, 6), extra, int(positions.max()) + 1)


def build_internvl() -> Tiny:
    vision = {**CLIP, "image_size": [16, 16], "patch_size": [4, 4]}
    vision.pop("projection_dim")
    config = InternVLConfig(
        text_config=Qwen2Config(**TEXT), vision_config=InternVLVisionConfig(**vision), image_token_id=IMAGE
    )
    model = InternVLForConditionalGeneration(config)
    # Two tiles of 2 x 2 tokens with a separator between them: the image columns have a gap.
    ids = torch.tensor([[3, 4, *[IMAGE] * 4, 6, *[IMAGE] * 4, 10, 11, 12, 13]])
    return Tiny(model, ids, (4, 2), {"pixel_values": torch.randn(2, 3, 16, 16)})


FAMILIES = {"llava": build_llava, "qwen2-vl": build_qwen2_vl, "internvl": build_internvl}


@cache
def built(name: str) -> Tiny:
    torch.manual_seed(0)
    tiny = FAMILIES[name]()
    tiny.model.eval()
    return tiny
