"""Tokenizers, chat templates and processors in the manners of published models, small and made on the spot."""

from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast, ProcessorMixin

from lookonce_scenes.tokenizer import build_processor as build_scenes_processor
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prompts import PromptRenderer

SPECIAL = ("<unk>", "<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]")
ADDED = ("<tool_call>", "</tool_call>")  # not special, as Qwen's
CORPUS = (
    "USER: What is in the image? ASSISTANT: a red circle. Describe the image. user system assistant",
    "<|im_start|> </s> [INST] im_start im_end INST tool_call image s unk x xx hello world Hello",
    *(chr(code) for code in range(33, 127)),
)


def special(texts: Iterable[str], **flags: bool) -> list[AddedToken]:
    return [AddedToken(text, **{"special": True, "normalized": False} | flags) for text in texts]


def _begun(tokenizer: Tokenizer) -> Tokenizer:
    """Puts "<s>" before each prompt."""
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return tokenizer


def _byte_level() -> Tokenizer:
    """As Llama 3's and Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    tokenizer.add_tokens([*special(SPECIAL), *special(ADDED, special=False)])
    return tokenizer


def _sentence_piece(tokenizer: Tokenizer) -> Tokenizer:
    """With the vocabulary of a SentencePiece model: a blank is a letter, what is unknown is spelled in bytes."""
    alphabet = ["\u2581", *map(chr, range(33, 127))]
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet]
    merges = [("i", "m"), ("\u2581", "i"), ("\u2581i", "m"), ("s", "t"), ("<", "|"), ("/", "s"), ("\u2581", "\u2581")]
    vocabulary = {piece: id_ for id_, piece in enumerate([*pieces, *("".join(merge) for merge in merges)])}
    tokenizer.model = models.BPE(vocabulary, merges, unk_token=SPECIAL[0], byte_fallback=True, fuse_unk=True)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_tokens([*special(SPECIAL), *special(ADDED, special=False)])
    return _begun(tokenizer)


def _llama_2() -> Tokenizer:
    """As LLaVA-1.5's: the normalizer puts a blank before each piece of text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return _sentence_piece(tokenizer)


def _metaspace() -> Tokenizer:
    """As newer conversions: a blank before the very first piece alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return _sentence_piece(tokenizer)


def _stripping() -> Tokenizer:
    """As Phi-3's: control tokens take the blanks beside them."""
    tokenizer = _byte_level()
    tokenizer.add_tokens(special(["<|end|>", "<|assistant|>"], rstrip=True))
    tokenizer.add_tokens(special(["<mask>"], lstrip=True))
    return _begun(tokenizer)


def _pieces() -> Tokenizer:
    """As Gemma's: line breaks and tags are pieces of the vocabulary that are looked for first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer = _sentence_piece(tokenizer)
    tokenizer.add_tokens(special(["\n\n", "\u2581\u2581\u2581", "im"], special=False))
    return tokenizer


def _normalised() -> Tokenizer:
    """Looks for tokens in what its normalizer leaves: in small letters, and in one form of each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    tokenizer.add_tokens(special(SPECIAL, normalized=True))
    return tokenizer


def _unknowing() -> Tokenizer:
    """A vocabulary of words, in which most texts are unknown, with control tokens among them."""
    words = ["hello", "world", "what", "is", "x", "user", "describe", "the", "image", ".", "?", "<", "|", ">", "s", "/"]
    tokenizer = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate([*SPECIAL, *words])}, unk_token=SPECIAL[0])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_tokens(special(SPECIAL))
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": _byte_level,
    "byte level with BOS": lambda: _begun(_byte_level()),
    "llama 2": _llama_2,
    "metaspace": _metaspace,
    "stripping": _stripping,
    "pieces": _pieces,
    "normalised": _normalised,
    "unknowing": _unknowing,
}

_PARTS = "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
TEMPLATES = {
    "chatml": "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}{{ ' ' + message['name'] if message['name'] is defined }}\n"
    + _PARTS
    + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    # As LLaVA-1.5's: the image first, then the texts, with nothing between them.
    "llava": "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    # As Mistral's, its BOS printed and its texts trimmed.
    "inst": "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{% for part in message['content'] %}{{ part['text'] | trim }}{% endfor %}</s>"
    "{% else %}[INST]"
    "{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] | trim }}{% endfor %}[/INST]{% endif %}{% endfor %}",
    # Looks at what was said, as templates that leave out thoughts do.
    "looking": "{% for message in messages %}<|im_start|>"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>"
    "{% elif 'hello' in part['text'] %}<tool_call>{{ part['text'] }}</tool_call>"
    "{% else %}{{ part['text'].split('</s>')[-1] }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}",
}


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    return wrapped(TOKENIZERS[kind]())


def wrapped(tokenizer: Tokenizer, **named: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        unk_token=SPECIAL[0],
        extra_special_tokens=named or {"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
    )


def llava(tokenizer: PreTrainedTokenizerFast, template: str) -> ProcessorMixin:
    """LLaVA's processor, which makes 196 tokens of a picture."""
    return LlavaProcessor(
        image_processor=build_scenes_processor().image_processor,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    )


class Family(NamedTuple):
    """A family's processor, with pictures of a few tokens, around any tokenizer."""

    build: Callable[[PreTrainedTokenizerFast], ProcessorMixin]
    tokens: dict[str, str]  # that its tokenizer names
    placeholder: str = "<image>"  # in its template
    more: tuple[str, ...] = ()  # tokens that are not named


def pixels(module: str, **options: Any) -> Any:
    """Return the image processor of a module, that of Pillow."""
    found = import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    (name,) = [name for name in found.__all__ if name.endswith("Pil")]
    return getattr(found, name)(**options)


SMALL = {"height": 28, "width": 28}
TILES = {"size": {"shortest_edge": 28}, "crop_size": SMALL, "image_grid_pinpoints": [[28, 56], [56, 28]]}
PROCESSORS = {
    "llava": Family(lambda t: llava(t, ""), {"image_token": "<image>"}),
    "llava next": Family(
        lambda t: transformers.LlavaNextProcessor(
            pixels("llava_next", **TILES), t, 14, "default", num_additional_image_tokens=1
        ),
        {"image_token": "<image>"},
    ),
    "llava onevision": Family(
        lambda t: transformers.LlavaOnevisionProcessor(
            pixels("llava_onevision", size=SMALL, image_grid_pinpoints=[[28, 56], [56, 28]]),
            t,
            transformers.LlavaOnevisionVideoProcessor(),
            4,
            "full",
        ),
        {"image_token": "<image>", "video_token": "<video>"},
    ),
    "qwen2 vl": Family(
        lambda t: transformers.Qwen2VLProcessor(pixels("qwen2_vl"), t, transformers.Qwen2VLVideoProcessor()),
        {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        "<|image_pad|>",
    ),
    "pixtral": Family(
        lambda t: transformers.PixtralProcessor(
            pixels("pixtral", patch_size={"height": 14, "width": 14}, size={"longest_edge": 56}), t, 14
        ),
        {"image_token": "[IMG]", "break_token": "[IMG_BREAK]", "end_token": "[IMG_END]"},
        "[IMG]",
    ),
    "gemma 3": Family(
        lambda t: transformers.Gemma3Processor(pixels("gemma3", size=SMALL), t, image_seq_length=4),
        {"image_token": "<soft>", "boi_token": "<boi>", "eoi_token": "<eoi>"},
        "<boi>",
    ),
    "janus": Family(
        lambda t: transformers.JanusProcessor(pixels("janus"), t, num_image_tokens=4),
        {"image_token": "<img>", "boi_token": "<boi>", "eoi_token": "<eoi>"},
        "<img>",
    ),
    "deepseek vl": Family(
        lambda t: transformers.DeepseekVLProcessor(pixels("deepseek_vl"), t, num_image_tokens=4),
        {"image_token": "<img>"},
        "<img>",
    ),
    "internvl": Family(
        lambda t: transformers.InternVLProcessor(
            pixels("got_ocr2", size=SMALL), t, transformers.InternVLVideoProcessor(), image_seq_length=4
        ),
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        "<IMG_CONTEXT>",
    ),
    "idefics 3": Family(
        lambda t: transformers.Idefics3Processor(
            pixels("idefics3", size={"longest_edge": 56}, max_image_size={"longest_edge": 28}), t, image_seq_len=4
        ),
        {
            "image_token": "<image>",
            "image_boundary_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
        },
        more=("<end_of_utterance>",),
    ),
}


TILE_SIDE, TILE_PATCH = 56, 14
TILE_SQUARE = {"height": TILE_SIDE, "width": TILE_SIDE}
TILE_PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]


def _tiled(name: str, build: Callable[[PreTrainedTokenizerFast], ProcessorMixin]) -> Family:
    return PROCESSORS[name]._replace(build=build)


def _rows(name: str, **options: Any) -> Any:
    """Return a processor of Pixtral's kind, whose rows of tokens end in breaks."""
    images = pixels(
        "pixtral", patch_size={"height": TILE_PATCH, "width": TILE_PATCH}, size={"longest_edge": 8 * TILE_PATCH}
    )
    return lambda t: getattr(transformers, name)(images, t, TILE_PATCH, **options)


# Of tiles of TILE_SIDE pixels, or rows, with patches of TILE_PATCH.
TILED = {
    "llava next": _tiled(
        "llava next",
        lambda t: transformers.LlavaNextProcessor(
            pixels(
                "llava_next",
                size={"shortest_edge": TILE_SIDE},
                crop_size=TILE_SQUARE,
                image_grid_pinpoints=TILE_PINPOINTS,
            ),
            t,
            TILE_PATCH,
            "default",
            num_additional_image_tokens=1,
        ),
    ),
    "llava onevision": _tiled(
        "llava onevision",
        lambda t: transformers.LlavaOnevisionProcessor(
            pixels("llava_onevision", size=TILE_SQUARE, image_grid_pinpoints=TILE_PINPOINTS),
            t,
            transformers.LlavaOnevisionVideoProcessor(),
            16,
            "full",
            vision_aspect_ratio="anyres_max_2",
        ),
    ),
    "internvl": _tiled(
        "internvl",
        lambda t: transformers.InternVLProcessor(
            pixels("got_ocr2", size=TILE_SQUARE, max_patches=6),
            t,
            transformers.InternVLVideoProcessor(),
            image_seq_length=4,
        ),
    ),
    "idefics 3": _tiled(
        "idefics 3",
        lambda t: transformers.Idefics3Processor(
            pixels("idefics3", size={"longest_edge": 4 * TILE_SIDE}, max_image_size={"longest_edge": TILE_SIDE}),
            t,
            image_seq_len=4,
        ),
    ),
    "smolvlm": _tiled(
        "idefics 3",
        lambda t: transformers.SmolVLMProcessor(
            pixels("smolvlm", size={"longest_edge": 4 * TILE_SIDE}, max_image_size={"longest_edge": TILE_SIDE}),
            t,
            transformers.SmolVLMVideoProcessor(),
            image_seq_len=4,
        ),
    ),
    "lighton ocr": Family(
        _rows("LightOnOcrProcessor"),
        {"image_token": "<|image_pad|>", "image_break_token": "<|pad|>", "image_end_token": "<|end|>"},
        "<|image_pad|>",
    ),
    "mistral 3": _tiled("pixtral", _rows("PixtralProcessor", spatial_merge_size=2)),
    "pixtral": _tiled("pixtral", _rows("PixtralProcessor")),
}


def family_processor(family: Family, kind: str, *, prints: bool) -> ProcessorMixin:
    """A family's processor around one of the tokenizers, with a template that prints the BOS token, or does not."""
    tokenizer = TOKENIZERS[kind]()
    tokenizer.add_tokens(special({*family.tokens.values(), *family.more}))
    processor = family.build(wrapped(tokenizer, **family.tokens))
    template = TEMPLATES["chatml"].replace("<image>", family.placeholder)
    processor.chat_template = "{{ bos_token }}" + template if prints else template
    return processor


def renderer_of(processor: Any, **options: bool) -> PromptRenderer:
    """A renderer whose model has nothing but an image token."""
    token = getattr(processor.tokenizer, "image_token", None) or processor.image_token
    config = transformers.Qwen2VLConfig(
        image_token_id=processor.tokenizer.convert_tokens_to_ids(token), text_config={"max_position_embeddings": 4096}
    )
    return PromptRenderer(processor, config, **options)


def processed(processor, turns: tuple[Turn, ...], image: Image.Image) -> dict[str, torch.Tensor]:
    """What `apply_chat_template` of the processor makes of a conversation."""
    messages = Conversation(turns).as_messages()
    for message in messages:
        for part in message["content"]:
            part |= {"image": image} if part["type"] == "image" else {}
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return processor.apply_chat_template(messages, **options)
