"""Qwen2-VL: M-RoPE, and as many image tokens as the picture's size asks for."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from lookonce_evaluation.bench.checkpoints.qwen2_vl_processor import END, END_OF_TEXT, SPECIAL_TOKENS, build_processor


@dataclass(frozen=True, slots=True)
class Qwen2VLShape:
    """What of a Qwen2-VL's configuration differs between sizes; the rest is as published for all of them.

    Attributes:
        hidden: width of the text model, and of what the vision tower hands to it.
        intermediate: width of the text model's MLP.
        layers: of the text model.
        heads: query heads of the text model, each of `hidden / heads`.
        kv_heads: key/value heads of the text model.
        mrope_section: rotary frequencies that turn with time, row and column; half a head's size together.
        vision_depth: blocks of the vision tower.
        vision_width: width of the vision tower.
        vision_heads: heads of the vision tower.
        words: entries of the tokenizer before its special tokens.
        vocabulary: rows of the embedding; more than tokens where they are padded.
        positions: the longest prompt with its answer.
        image_tokens: the most that a picture may have; a larger one is made smaller.
        tied: whether the embedding is the output layer too.
        spread: standard deviation of the weights.
        dtype: of the weights.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    mrope_section: tuple[int, int, int]
    vision_depth: int
    vision_width: int
    vision_heads: int
    words: int = 151_643
    vocabulary: int = 151_936
    positions: int = 32_768
    image_tokens: int = 16_384
    tied: bool = True
    spread: float = 0.02
    dtype: torch.dtype = torch.bfloat16

    @property
    def token_ids(self) -> dict[str, int]:
        """Where the special tokens stand."""
        return {token: self.words + at for at, token in enumerate(SPECIAL_TOKENS)}

    def config(self) -> Qwen2VLConfig:
        """As transformers wants it."""
        token = self.token_ids
        text = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": self.positions,
            "max_window_layers": self.layers,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": list(self.mrope_section),
            },
            "initializer_range": self.spread,
            "bos_token_id": token[END_OF_TEXT],
            "eos_token_id": token[END],
            "pad_token_id": token[END_OF_TEXT],
        }
        vision = {
            "depth": self.vision_depth,
            "embed_dim": self.vision_width,
            "num_heads": self.vision_heads,
            "hidden_size": self.hidden,
            "mlp_ratio": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "initializer_range": self.spread,
        }
        return Qwen2VLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=token["<|image_pad|>"],
            video_token_id=token["<|video_pad|>"],
            vision_start_token_id=token["<|vision_start|>"],
            vision_end_token_id=token["<|vision_end|>"],
            tie_word_embeddings=self.tied,
        )


QWEN2_VL_2B = Qwen2VLShape(
    hidden=1536,
    intermediate=8960,
    layers=28,
    heads=12,
    kv_heads=2,
    mrope_section=(16, 24, 24),
    vision_depth=32,
    vision_width=1280,
    vision_heads=16,
)
"""Qwen2-VL-2B-Instruct as published: 2.2 billion weights, 4.4 GB."""

QWEN2_VL_SMALL = Qwen2VLShape(
    hidden=896,
    intermediate=4864,
    layers=24,
    heads=14,
    kv_heads=2,
    mrope_section=(8, 12, 12),
    vision_depth=24,
    vision_width=1024,
    vision_heads=16,
)
"""0.8 billion weights, for machines that the published ones are too slow on. Nobody published it as a whole.

The text model is Qwen2-0.5B's, the vision tower has CLIP ViT-L/14's depth, width and heads, and the rotary sections are
Qwen2-VL's, halved with the heads' size.
"""

TINY = Qwen2VLShape(
    hidden=128,
    intermediate=256,
    layers=4,
    heads=4,
    kv_heads=2,
    mrope_section=(4, 6, 6),
    vision_depth=2,
    vision_width=64,
    vision_heads=2,
    words=1010,
    vocabulary=1024,
    positions=2048,
    image_tokens=1024,
    tied=False,
    spread=0.2,
    dtype=torch.float32,
)
"""For tests: answers differ with the picture and the question, since its weights are spread wide."""


def write_qwen2_vl(folder: Path, shape: Qwen2VLShape = QWEN2_VL_2B) -> Path:
    """A Qwen2-VL of random weights, the same every time, laid out as the published ones are.

    A picture has a token for every 28 x 28 pixels, four at least and `shape.image_tokens` at most.

    Args:
        folder: where it is written.
        shape: how large it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2VLForConditionalGeneration._from_config(shape.config(), dtype=shape.dtype)
    model.save_pretrained(folder)
    token = shape.token_ids
    GenerationConfig(
        bos_token_id=token[END_OF_TEXT], eos_token_id=token[END], pad_token_id=token[END_OF_TEXT], do_sample=False
    ).save_pretrained(folder)
    build_processor(shape.words, shape.positions, shape.image_tokens).save_pretrained(folder)
    return folder
