"""The tokenizer, chat template and processor of a Qwen2-VL checkpoint.

The words are those of the bundled model's world; any other text is spelled in bytes. The vocabulary is filled up to the
published size with words that nobody types, so that every id that random weights may say is text.
"""

import json
from itertools import islice, product
from string import ascii_lowercase

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast, Qwen2VLProcessor, Qwen2VLVideoProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lookonce_scenes.tokenizer import train_words

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


def build_tokenizer(words: int, max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer: `words` entries, of which the world's come first, then the special tokens.

    Raises ValueError when `words` are too few for the bytes and the world's words.
    """
    described = json.loads(train_words(()).to_str())
    known: dict[str, int] = described["model"]["vocab"]
    if words < len(known):
        raise ValueError(f"words {words}: the bytes and the scenes' words are {len(known)} already")
    spelled = ("".join(letters) for letters in product(ascii_lowercase, repeat=4))
    unspoken = (f"Ġ{letters}" for letters in spelled)  # Ġ is how a byte-level vocabulary writes a space
    fresh = islice((word for word in unspoken if word not in known), words - len(known))
    known.update({word: at for at, word in enumerate(fresh, len(known))})
    tokenizer = Tokenizer.from_str(json.dumps(described))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=END_OF_TEXT,
        eos_token=END,
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in (END_OF_TEXT, END)],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def build_processor(words: int, max_length: int, image_tokens: int) -> Qwen2VLProcessor:
    """The processor, which makes larger pictures smaller until they have `image_tokens`."""
    bounds = {"shortest_edge": 4 * _TOKEN_PIXELS, "longest_edge": image_tokens * _TOKEN_PIXELS}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(size=bounds),
        tokenizer=build_tokenizer(words, max_length),
        video_processor=Qwen2VLVideoProcessor(size=bounds),
        chat_template=CHAT_TEMPLATE,
    )
