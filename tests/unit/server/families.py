"""Tokenizers, chat templates and processors in the manners of published models, small and made on the spot."""

from collections.abc import Callable, Iterable
from functools import cache
from types import SimpleNamespace
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast, ProcessorMixin

from lookonce_scenes.tokenizer import build_processor as build_scenes_processor
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


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        unk_token=SPECIAL[0],
        extra_special_tokens={"image_token": "<image>"},
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


def renderer_of(processor: Any, **options: bool) -> PromptRenderer:
    """A renderer whose model has nothing but an image token."""
    image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    return PromptRenderer(processor, SimpleNamespace(image_token_id=image), **options)
