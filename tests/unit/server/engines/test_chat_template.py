"""Templates of published models' manners: what they take, and how they begin an answer."""

import logging

import pytest

from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prompts import PromptRenderer
from lookonce_server.engines.reasoning import ReasoningFormat, ReasoningSplitter
from lookonce_server.errors import InvalidRequestError, ModelRefusedError

from ....support.checkpoints import CHECKPOINTS, build_processor
from ....support.families import llava, renderer_of, tokenizer_of
from ....support.samples import PROMPT, about, picture

PARTS = "{% for part in m.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}"
# The assistant's turns are joined to a text, as Pixtral's: a list of parts is an error there.
TEXTS = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{% if m.content is string %}{{ m.content }}"
    "{% else %}" + PARTS + "{% endif %}[/INST]{% else %}{{ m.content + '</s>' }}{% endif %}{% endfor %}"
)
# All contents are texts: lists of parts are printed as they are in Python.
STRINGS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3-VL-Thinking's: an answer to be generated begins with an open mark, an earlier one with none.
OPENED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for part in m.content %}{% if part.type == 'image' %}<image>"
    "{% else %}{{ part.text.split('</think>')[-1] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
# As GLM-4.5V's: an earlier answer has an empty thought, and one to be generated begins with nothing.
EMPTY = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ '<think></think>\n' if m.role == 'assistant' }}" + PARTS
) + ("<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}")
TURNS = (Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", ("What is it?",)))


def renderer(template: str):
    return renderer_of(llava(tokenizer_of("byte level"), template))


def test_a_template_that_takes_texts_is_given_texts():
    for template, prompt in (
        (TEXTS, f"[INST]<image>{PROMPT}[/INST]"),
        (STRINGS, f"<|im_start|>user\n<image>{PROMPT}<|im_end|>\n<|im_start|>assistant\n"),
    ):
        prompts = renderer(template)
        prompts.check_template(PROMPT)
        assert prompts.join_problem(PROMPT) is None
        turn = prompts.describe_turn(PROMPT)
        assert turn.rendered.text == prompt
        whole = prompts.full(Conversation(TURNS), [picture(1)])
        described = prompts.describe(PROMPT, picture(1))
        assert described.ids + prompts.continuation(PROMPT, about("What is it?"))[0].tolist() == whole.ids
        assert len(described.image_positions) == 196


def test_a_template_that_takes_nothing_is_refused_with_its_reason():
    for raised, said in (("m.content + 1 + []", "TypeError: "), ("raise_exception('Not today.')", "Not today.$")):
        prompts = renderer("{% for m in messages %}{{ " + raised + " }}{% endfor %}")
        with pytest.raises(ModelRefusedError, match=f"does not take this conversation: {said}"):
            prompts.check_template(PROMPT)
        with pytest.raises(InvalidRequestError, match=f"does not take this conversation: {said}"):
            prompts.full_ids(about("What is it?"))


def test_a_describe_turn_begins_its_answer_as_an_earlier_turn_does():
    for template, opens, ends in (
        (OPENED, "<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n"),
        (EMPTY, "<|im_start|>assistant\n<think></think>\n", "<|im_start|>assistant"),
    ):
        prompts = renderer(template)
        prompts.check_template(PROMPT)
        assert prompts.join_problem(PROMPT) is None
        assert prompts.describe_turn(PROMPT).rendered.text == f"<|im_start|>user\n<image>{PROMPT}<|im_end|>\n{opens}"
        described = prompts.describe(PROMPT, picture(1))
        whole = prompts.full(Conversation(TURNS), [picture(1)])
        after = prompts.continuation(PROMPT, about("What is it?"))[0].tolist()
        assert described.ids + after == whole.ids
        assert prompts.tokenizer.decode(after).endswith(ends)


def test_another_beginning_than_that_of_a_thought_is_refused():
    template = OPENED.replace("<think>", "Well,")
    with pytest.raises(ModelRefusedError, match="differently when another turn follows"):
        renderer(template).check_template(PROMPT)


def test_whether_a_model_reasons_is_in_its_template():
    assert renderer(OPENED).reasoning == ReasoningFormat(is_opened=True)
    assert renderer(EMPTY).reasoning == ReasoningFormat(is_opened=False)
    assert renderer(STRINGS).reasoning is None


def test_reasoning_is_told_from_the_answer_however_the_text_is_cut():
    for opened, text, reasoning, content in (
        (True, "\nIt is < red.\n</think>\n\nRed </think>.", "It is < red.", "Red </think>."),
        (True, "It is red", "It is red", ""),
        (True, "", "", ""),
        (True, "</think>Red", "", "Red"),
        (False, "\n<think>It is\nred.</think>\nRed", "It is\nred.", "Red"),
        (False, "<think></think>\nRed", "", "Red"),
        (False, " Red <think> no", "", " Red <think> no"),
        (False, "<thin", "", "<thin"),
        (False, "\n", "", "\n"),
    ):
        for size in (1, 2, 3, 7, 100):
            splitter = ReasoningSplitter(ReasoningFormat(opened))
            pieces = [text[i : i + size] for i in range(0, len(text), size)]
            splits = [splitter.push(piece) for piece in pieces] + [splitter.push("", is_last=True)]
            assert "".join(split.reasoning or "" for split in splits) == reasoning, (text, size)
            assert "".join(split.content for split in splits) == content, (text, size)


def test_a_processor_that_adds_options_of_its_own_warns_of_nothing(caplog):
    """SmolVLM's does at each prompt where it is given none."""
    checkpoint = CHECKPOINTS["smolvlm"]
    processor = build_processor(checkpoint)
    logger = logging.getLogger("transformers.processing_utils")
    logger.addHandler(caplog.handler)
    try:
        prompts = PromptRenderer(processor, checkpoint.config(processor.tokenizer))
        assert len(prompts.describe(PROMPT, picture(1)).image_positions)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.messages
