"""Any text can be typed, the scenes' words cost one token each, and the template renders what training saw."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer

from lookonce_scenes import CHECKPOINT
from lookonce_scenes.questions import DESCRIBE_PROMPTS, NUMBERS
from lookonce_scenes.tokenizer import (
    ASSISTANT,
    BOS,
    CHAT_TEMPLATE,
    EOS,
    IMAGE,
    PAD,
    SPECIAL_TOKENS,
    SYSTEM,
    USER,
    build_tokenizer,
)
from lookonce_scenes.world import REGIONS, SIZES, WIDE


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def says(role: str, *parts: dict[str, str] | str) -> dict[str, object]:
    return {"role": role, "content": [text(p) if isinstance(p, str) else p for p in parts]}


PICTURE = {"type": "image"}


@settings(deadline=None)
@given(st.text())
def test_any_text_round_trips(tokenizer, typed):
    ids = tokenizer.encode(typed, add_special_tokens=False)
    assert tokenizer.decode(ids) == typed


@settings(deadline=None)
@given(st.text())
def test_text_never_makes_a_special_token_of_its_own(tokenizer, typed):
    if not any(token in typed for token in SPECIAL_TOKENS):
        assert all(i >= len(SPECIAL_TOKENS) for i in tokenizer.encode(typed, add_special_tokens=False))


@pytest.mark.parametrize(
    "word",
    sorted({*WIDE.colors, *WIDE.kinds, *SIZES, *(f"{k}s" for k in WIDE.shapes), *" ".join(REGIONS).split(), *NUMBERS}),
)
def test_the_worlds_words_are_single_tokens(tokenizer, word):
    for form in (word, f" {word}", word.capitalize(), f" {word.capitalize()}"):
        assert len(tokenizer.encode(form, add_special_tokens=False)) == 1, form


@pytest.mark.parametrize("sentence", ["What color is the large object at the top left?", *DESCRIBE_PROMPTS])
def test_a_question_costs_a_token_a_word(tokenizer, sentence):
    assert len(tokenizer.encode(sentence, add_special_tokens=False)) == len(sentence.split()) + 1


def test_the_special_tokens_have_their_ids(tokenizer):
    ids = [PAD, BOS, EOS, IMAGE, SYSTEM, USER, ASSISTANT]
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == ids == list(range(7))
    assert tokenizer.encode("".join(SPECIAL_TOKENS), add_special_tokens=False) == ids
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (PAD, BOS, EOS)
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""


@pytest.mark.parametrize(
    ("messages", "rendered"),
    [
        ([says("user", PICTURE, "What is it?")], "<s><|user|><image>What is it?<|assistant|>"),
        (
            [says("system", "Be brief."), says("user", PICTURE, "What is it?")],
            "<s><|system|>Be brief.<|user|><image>What is it?<|assistant|>",
        ),
        (
            [
                says("user", PICTURE, "Describe the image."),
                says("assistant", "A small red circle at the center."),
                says("user", "What color is the circle?"),
            ],
            "<s><|user|><image>Describe the image.<|assistant|>A small red circle at the center.</s>"
            "<|user|>What color is the circle?<|assistant|>",
        ),
        ([says("user", "What is it?", PICTURE)], "<s><|user|><image>What is it?<|assistant|>"),
        ([says("user", " one ", PICTURE, "two\n")], "<s><|user|>one<image>two<|assistant|>"),
        (
            [says("user", "Front:", PICTURE, "Back:", PICTURE, "Which one", "has a star?")],
            "<s><|user|>Front:<image>Back:<image>Which one\nhas a star?<|assistant|>",
        ),
        ([says("user", "Which?", "Say.", PICTURE, PICTURE)], "<s><|user|><image><image>Which?\nSay.<|assistant|>"),
        ([says("user", PICTURE), says("assistant")], "<s><|user|><image><|assistant|></s><|assistant|>"),
        ([{"role": "user", "content": " Hello. "}], "<s><|user|>Hello.<|assistant|>"),
        (
            [says("user", PICTURE, "?"), says("assistant", ""), says("user", "?")],
            "<s><|user|><image>?<|assistant|></s><|user|>?<|assistant|>",
        ),
    ],
    ids=[
        "direct",
        "system",
        "multi-turn",
        "image-first",
        "parts",
        "labels",
        "images-first",
        "no-parts",
        "plain-string",
        "closed-describe-turn",
    ],
)
def test_the_template_renders(processor, messages, rendered):
    assert processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == rendered


def test_the_template_can_leave_the_answer_to_come_unopened(processor):
    messages = [says("user", "Hello."), says("assistant", "Hello.")]
    rendered = processor.apply_chat_template(messages, tokenize=False)
    assert rendered == "<s><|user|>Hello.<|assistant|>Hello.</s>"


def test_building_it_again_gives_the_same_tokenizer(tokenizer):
    assert build_tokenizer().backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_checkpoint_carries_this_tokenizer_and_template(tokenizer):
    saved = AutoTokenizer.from_pretrained(CHECKPOINT)
    assert json.loads(saved.backend_tokenizer.to_str()) == json.loads(tokenizer.backend_tokenizer.to_str())
    assert saved.special_tokens_map["eos_token"] == tokenizer.eos_token
    assert AutoProcessor.from_pretrained(CHECKPOINT).chat_template == CHAT_TEMPLATE
