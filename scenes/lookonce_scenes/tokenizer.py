"""Build the bundled model's tokenizer, chat template and processor.

Byte-level BPE can encode any text, so people can type anything; words the world knows cost one token each.
"""

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lookonce_scenes.world import DIGITS, IMAGE_SIZE, REGIONS, SIZES, WIDE

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
    "images picture pictures photo first second third fourth last next previous other both each every all same "
    "different more less fewer most than total together altogether but which contain contains "
    "video frame frames scene move moves moved moving appear appears appeared disappear disappears disappeared "
    "change changes changed turn turns turned new direction up down happen happens happened after before when often "
    "once twice never then begin beginning start end time times times still always long between "
    "could would kindly ok okay now if so just also my your here they them its these those "
    "grey outline outlined outlines outlining filled fill unfilled hollow solid background ground drawn draw drawing "
    "present visible seen containing without least six seven eight nine ten numbers digits colors colours shapes "
    "sizes positions position located location located place count compare difference common "
    "front back label shows showing look at give say says true false correct whether did was were been being had "
    "into out off above below ellipse ellipses good great day well helpful "
    "mostly quickly short long few small smaller smallest larger largest biggest bigger biggest than "
).split()

# The parts of a message keep their order where its last one is a text. Where it is an image, images come first and the
# texts follow, so that a question stands behind what it asks about, as in the training data.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] | trim -}}"
    "{%- elif message['content'] -%}"
    "{%- set in_order = message['content'][-1]['type'] == 'text' -%}"
    "{%- set images = message['content'] | selectattr('type', 'equalto', 'image') | list -%}"
    "{%- set texts = message['content'] | selectattr('type', 'equalto', 'text') | list -%}"
    "{%- for part in (message['content'] if in_order else images + texts) -%}"
    "{%- if part['type'] == 'image' -%}{{- '<image>' -}}"
    "{%- elif part['type'] == 'text' -%}"
    "{{- ('\\n' if loop.previtem is defined and loop.previtem['type'] == 'text' else '') + part['text'] | trim -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def _vocabulary() -> list[str]:
    shapes = (f"{shape}{ending}" for shape in WIDE.shapes for ending in ("", "s"))
    known = {*_WORDS, *WIDE.colors, *SIZES, *DIGITS, *shapes, *" ".join(REGIONS).split()}
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
        model_max_length=4096,
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
