"""Build the bundled model's tokenizer, chat template and processor.

Byte-level BPE can encode any text, so people can type anything; words the world knows cost one token each.
"""

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lookonce_scenes.world import COLORS, IMAGE_SIZE, KINDS, REGIONS, SHAPES, SIZES

PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE
IMAGE_TOKENS = GRID * GRID

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<image>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, BOS, EOS, IMAGE, SYSTEM, USER, ASSISTANT = range(len(SPECIAL_TOKENS))

_WORDS = (
    "a an the is are there in of at on and it not this that to do does you see what which where how many much "
    "color colour shape size object objects image picture anything nothing none yes no exactly zero one two "
    "three four five large small find list describe show shown digit half side left right top bottom center "
    "middle who me tell about please can answer with only word number any has have i say thanks hello or all "
    "for be as by from number briefly short sentence name big little thing things helpful assistant user "
    "system questions careful concise "
).split()

# Images come first in their turn, as in the training data, wherever the client put them.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] | trim -}}"
    "{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{- '<image>' -}}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}"
    "{{- ('' if loop.first else '\\n') + part['text'] | trim -}}{%- endfor -%}"
    "{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def _vocabulary() -> list[str]:
    known = {*_WORDS, *COLORS, *SIZES, *KINDS, *(f"{k}s" for k in SHAPES), *" ".join(REGIONS).split()}
    return sorted(known | {w.capitalize() for w in known})


def train_words(special_tokens: Sequence[str]) -> Tokenizer:
    """Build a byte-level BPE of special tokens, every byte and the word list.

    It is the same on every machine.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in special_tokens],
        show_progress=False,
    )
    words = _vocabulary()
    tokenizer.train_from_iterator(words + [f" {w}" for w in words], trainer)
    return tokenizer


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer from the word list alone."""
    return PreTrainedTokenizerFast(
        tokenizer_object=train_words(SPECIAL_TOKENS),
        pad_token="<pad>",  # noqa: S106 - tokens of the vocabulary, not secrets
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> LlavaProcessor:
    """Build the processor: tokenizer, chat template, pictures of IMAGE_SIZE."""
    images = CLIPImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_center_crop=False,
        resample=3,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token="<image>",  # noqa: S106 - a token of the vocabulary, not a secret
        num_additional_image_tokens=1,
    )
