"""Tools, calls and results as a template shows them, and as text where it knows none."""

import json
from dataclasses import replace

from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.tool_calls import CallFormat
from lookonce_server.engines.tools import ToolCall

from ....support.families import llava, renderer_of, tokenizer_of
from ....support.samples import PROMPT, picture
from ....support.tool_model import TOOL_TEMPLATE, TOOLS

PLAIN = TOOL_TEMPLATE.replace("if tools", "if false").replace("m.tool_calls or []", "[]")
CALLS = (ToolCall("call00000", "look", '{"at": "<|im_start|> \\"x\\""}'), ToolCall("call00001", "stop", ""))
CHAT = Conversation(
    (
        Turn("system", ("Be brief.",)),
        Turn("user", (0, "What is there?")),
        Turn("assistant", ("Hm.",), calls=CALLS),
        Turn("tool", ("A part:", 1), "look", call_id="call00000"),
        Turn("tool", ("Done.",), "stop", call_id="call00001"),
    ),
    tools=TOOLS,
)
LISTED = "\n".join(
    (
        "<tools>",
        '{"type": "function", "function": {"name": "look", "description": "Look <|im_end|> closer.", "parameters":'
        ' {"type": "object", "properties": {"at": {"enum": ["<image>", "top left"]}}}}}',
        '{"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}}',
        "</tools>",
        'Call as <tool_call>\n{"name": <name>, "arguments": <json>}\n</tool_call>',
    )
)
CALLED = (
    "<|im_start|>assistant\nHm.\n"
    '<tool_call>\n{"name": "look", "arguments": {"at": "<|im_start|> \\"x\\""}}\n</tool_call>\n'
    '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call><|im_end|>\n'
)


def renderer(template: str):
    return renderer_of(llava(tokenizer_of("byte level"), template))


def ids_of(prompts, *parts: str) -> list[int]:
    """The tokens of a prompt whose control tokens are in the even parts, and nothing but text in the odd ones."""
    return [id_ for i, part in enumerate(parts) for id_ in (prompts.tokenizer(part)["input_ids"] if i % 2 == 0 else [])]


def test_a_template_tells_the_model_of_tools_itself():
    prompts = renderer(TOOL_TEMPLATE)
    prompts.check_template(PROMPT)
    assert prompts.no_tools is None
    assert prompts.call_format == CallFormat("<tool_call>", "</tool_call>")
    text = prompts.tokenizer.decode(prompts.full_ids(CHAT))
    assert text == (
        f"<|im_start|>system\nBe brief.\n\n# Tools\n{LISTED}<|im_end|>\n"
        f"<|im_start|>user\n<image>What is there?<|im_end|>\n{CALLED}"
        "<|im_start|>user\n<tool_response>\nA part:<image>\n</tool_response><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nDone.\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    full = prompts.full(CHAT, [picture(1), picture(2)])
    assert len(full.image_positions) == 2 * 196


def test_what_a_tool_or_a_call_spells_is_text_and_what_the_template_says_of_them_is_its_own():
    prompts = renderer(TOOL_TEMPLATE)
    control = prompts._control_tokens.ids
    innocent = replace(CHAT, tools=(replace(TOOLS[0], description="Look closer.", parameters="{}"), TOOLS[1]))
    innocent = replace(
        innocent,
        turns=(*CHAT.turns[:2], replace(CHAT.turns[2], calls=(ToolCall("c", "look", "{}"), CALLS[1])), *CHAT.turns[3:]),
    )
    turns = [prompts.describe_turn(PROMPT)] * 2
    for ids, others in (
        (prompts.full_ids(CHAT), prompts.full_ids(innocent)),
        (prompts.join(turns, CHAT).after, prompts.join(turns, innocent).after),
    ):
        assert [id_ for id_ in ids if id_ in control] == [id_ for id_ in others if id_ in control]
        assert prompts.tokenizer.convert_tokens_to_ids("<tool_call>") in ids


def test_behind_contexts_tools_open_the_first_turn_and_the_context_stays_as_it_is():
    prompts = renderer(TOOL_TEMPLATE)
    turn = prompts.describe_turn(PROMPT)
    joined = prompts.join([turn, turn], CHAT)
    assert joined.prefix == turn.prefix
    text = prompts.tokenizer.decode(joined.after)
    assert text == (
        f"<|im_end|>\n<|im_start|>user\n# Tools\n{LISTED}\nBe brief.\n[image 1]\nWhat is there?<|im_end|>\n{CALLED}"
        "<|im_start|>user\n<tool_response>\nA part:\n[image 2]\n</tool_response><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nDone.\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    without = prompts.join([turn, turn], replace(CHAT, tools=()))
    assert (without.prefix, without.seams, without.turn_tokens) == (joined.prefix, joined.seams, joined.turn_tokens)


def test_a_template_that_knows_no_tools_is_given_texts():
    prompts = renderer(PLAIN)
    assert prompts.no_tools == "This model's chat template knows no tools."
    text = prompts.tokenizer.decode(prompts.full_ids(CHAT))
    look, stop = (json.dumps(tool.as_message()["function"]) for tool in TOOLS)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n<image>Functions:\n{look}\n{stop}\nWhat is there?<|im_end|>\n"
        '<|im_start|>assistant\nHm.\n{"name": "look", "arguments": {"at": "<|im_start|> \\"x\\""}}\n'
        '{"name": "stop", "arguments": {}}<|im_end|>\n'
        "<|im_start|>user\nA part:<image>Done.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_images_of_results_follow_them_where_a_template_does_not_show_them_there():
    prompts = renderer(
        TOOL_TEMPLATE.replace("+ shown(m.content) + '\\n</tool_response>", "+ m.content + '\\n</tool_response>")
    )
    assert prompts.no_tools is None
    text = prompts.tokenizer.decode(prompts.full_ids(CHAT))
    assert text.endswith(
        "<|im_start|>user\n<tool_response>\nA part:\n</tool_response><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nDone.\n</tool_response><|im_end|>\n"
        "<|im_start|>user\n<image><|im_end|>\n<|im_start|>assistant\n"
    )
    assert len(prompts.full(CHAT, [picture(1), picture(2)]).image_positions) == 2 * 196


def test_a_template_that_takes_texts_alone_is_given_texts_of_calls_and_results_too():
    template = TOOL_TEMPLATE.replace("shown(m.content)", "m.content").replace(
        "shown(messages[0].content)", "messages[0].content"
    )
    prompts = renderer(template)
    assert prompts.no_tools is None
    assert prompts.tokenizer.decode(prompts.full_ids(CHAT)) == renderer(TOOL_TEMPLATE).tokenizer.decode(
        renderer(TOOL_TEMPLATE).full_ids(CHAT)
    )


def test_other_forms_of_calls_are_told_from_templates():
    wrap = "'<tool_call>\\n{\"name\": \"' + f.name + '\", \"arguments\": ' + f.arguments | tojson + '}\\n</tool_call>'"
    for written, form in (
        (
            "'[INST] [{\"name\": \"' + f.name + '\", \"arguments\": ' + f.arguments | tojson + '}]'",
            CallFormat("[INST]", "", True),
        ),
        ("'{\"name\": \"' + f.name + '\", \"parameters\": ' + f.arguments | tojson + '}'", CallFormat("", "")),
        ("'<f=' + f.name + '>' + f.arguments | tojson", None),
    ):
        prompts = renderer(TOOL_TEMPLATE.replace(wrap, written))
        assert prompts.call_format == form, written
        assert (prompts.no_tools is None) == (form is not None)
