"""A tiny Qwen2-VL of random weights, laid out as the published ones are: M-RoPE, image tokens by a picture's size.

Its weights are spread wide, so that answers differ with the picture and the question. The tokenizer's words are those
of the bundled model's world; any other text is spelled in bytes.
"""

import json
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase

import torch
from tokenizers import AddedToken, Tokenizer
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lookonce_scenes.tokenizer import train_words

WORDS = 2034  # entries of the tokenizer before its special tokens
VOCABULARY = 2048
POSITIONS = 2048
IMAGE_TOKENS = 1024  # a larger picture is made smaller
LAYERS, HEADS, HEAD_DIM = 4, 4, 32
MROPE_SECTION = (4, 6, 6)  # rotary frequencies of time, row and column: half of HEAD_DIM together
# In the published order; they follow the words.
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
END_OF_TEXT, END = "<|endoftext|>", "<|im_end|>"
_TOKEN_PIXELS = 28 * 28

# ChatML. Parts stay in the order in which they were sent, and a conversation that opens with no system turn is given
# one, both as the published model's template has it.
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'text' -%}{{- part['text'] -}}"
    "{%- elif part['type'] in ('image', 'image_url') -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part['type'] == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- else -%}{{- raise_exception('unknown part: ' + part['type']) -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
TOKEN_IDS = {token: WORDS + at for at, token in enumerate(SPECIAL_TOKENS)}


def write_qwen2_vl(folder: Path) -> Path:
    """Writes the checkpoint, the same every time. A picture has a token for every 28 x 28 pixels, four at least."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(_config(), dtype=torch.float32)
    model.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=TOKEN_IDS[END_OF_TEXT],
        eos_token_id=TOKEN_IDS[END],
        pad_token_id=TOKEN_IDS[END_OF_TEXT],
        do_sample=False,
    ).save_pretrained(folder)
    bounds = {"shortest_edge": 4 * _TOKEN_PIXELS, "longest_edge": IMAGE_TOKENS * _TOKEN_PIXELS}
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(size=bounds),
        tokenizer=_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(size=bounds),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def _config() -> Qwen2VLConfig:
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": HEADS * HEAD_DIM,
        "intermediate_size": 256,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
        "max_window_layers": LAYERS,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(MROPE_SECTION)},
        "initializer_range": 0.2,
        "bos_token_id": TOKEN_IDS[END_OF_TEXT],
        "eos_token_id": TOKEN_IDS[END],
        "pad_token_id": TOKEN_IDS[END_OF_TEXT],
    }
    vision = {
        "depth": 2,
        "embed_dim": 64,
        "num_heads": 2,
        "hidden_size": HEADS * HEAD_DIM,
        "mlp_ratio": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "initializer_range": 0.2,
    }
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=TOKEN_IDS["<|image_pad|>"],
        video_token_id=TOKEN_IDS["<|video_pad|>"],
        vision_start_token_id=TOKEN_IDS["<|vision_start|>"],
        vision_end_token_id=TOKEN_IDS["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """The world's words, filled up with words that nobody types: every id that random weights may say is text."""
    trained = json.loads(train_words(()).to_str())
    vocabulary: dict[str, int] = trained["model"]["vocab"]
    spelled = (f"Ġ{''.join(letters)}" for letters in product(ascii_lowercase, repeat=4))  # Ġ is a space
    fresh = islice((word for word in spelled if word not in vocabulary), WORDS - len(vocabulary))
    vocabulary.update({word: at for at, word in enumerate(fresh, len(vocabulary))})
    tokenizer = Tokenizer.from_str(json.dumps(trained))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=END_OF_TEXT,
        eos_token=END,
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in (END_OF_TEXT, END)],
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )
