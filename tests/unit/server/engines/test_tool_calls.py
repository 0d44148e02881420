"""Calls are told from an answer's text, however it is cut."""

import json

from lookonce_server.engines.tool_calls import CallFormat, parser_of
from lookonce_server.engines.tools import ToolChoice

HERMES = CallFormat("<tool_call>", "</tool_call>")
MISTRAL = CallFormat("[TOOL_CALLS]", "", is_list=True)
LLAMA = CallFormat("", "")
F, G = '{"name": "f", "arguments": {"a": "x"}}', '{"name": "g", "arguments": {}}'
MARKS = '{"name": "f", "arguments": {"a": "</tool_call> {\\"name\\": \\"g\\"} \\\\"}}'
AUTO = ToolChoice("auto", ("f", "g"))


def told(choice, form, text, size):
    """The content, and the calls by number, of a text that comes in pieces of a size."""
    parser = parser_of(choice, form)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    splits = []
    for piece in pieces:
        splits.append(parser.push(piece))
        if parser.is_done:
            break
    splits.append(parser.push("", is_last=True))
    calls = {}
    for delta in (delta for split in splits for delta in split.calls):
        if delta.name is not None:
            assert delta.index == len(calls)
            calls[delta.index] = [delta.name, ""]
        calls[delta.index][1] += delta.arguments
    assert parser.num_calls >= len(calls)
    return "".join(split.content for split in splits), [tuple(call) for call in calls.values()]


def test_calls_are_told_from_text_however_it_is_cut():
    f, g = ("f", '{"a": "x"}'), ("g", "{}")
    for form, text, content, calls in (
        (HERMES, "Hello < there. ", "Hello < there. ", []),
        (HERMES, "", "", []),
        (HERMES, f"<tool_call>\n{F}\n</tool_call>", "", [f]),
        (HERMES, f"I look.\n<tool_call>\n{F}\n</tool_call>\n<tool_call>{G}</tool_call>\n", "I look.", [f, g]),
        (HERMES, f"<tool_call>\n{F}", "", [f]),
        (HERMES, f"<tool_call>{MARKS}</tool_call>", "", [("f", json.dumps({"a": '</tool_call> {"name": "g"} \\'}))]),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": "x', "", [("f", '{"a": "x')]),
        (HERMES, '<tool_call>{"arguments": {"a": "x"}, "name": "f"}</tool_call>', "", [f]),
        (HERMES, '<tool_call>{"name": "f", "arguments": 3}</tool_call>!', None, []),
        (HERMES, '<tool_call>{"name": "h", "arguments": {}}</tool_call>', None, []),
        (HERMES, f'<tool_call>{{"name": "h", "arguments": {{}}}}</tool_call><tool_call>{F}</tool_call>', ..., [f]),
        (HERMES, f"<tool_call> what? <tool_call>{F}</tool_call>", "<tool_call> what?", [f]),
        (HERMES, "a <tool_call>", None, []),
        (HERMES, "a <tool_ca", None, []),
        (MISTRAL, f"[TOOL_CALLS] [{F}, {G}]", "", [f, g]),
        (MISTRAL, "[TOOL] no", None, []),
        (LLAMA, f"\n{F}", "", [f]),
        (LLAMA, F.replace("arguments", "parameters"), "", [f]),
        (LLAMA, f"Then: {F}", None, []),
        (LLAMA, '{"color": "red"} it is', None, []),
        (LLAMA, "{", None, []),
    ):
        for size in (1, 2, 3, 7, 1000):
            found = told(AUTO, form, text, size)
            assert found[1] == calls, (text, size, found)
            if content is not ...:
                assert found[0] == (text if content is None else content), (text, size, found)


def test_one_call_is_enough_where_one_is_asked_for():
    text = f"<tool_call>\n{F}\n</tool_call>\n<tool_call>{G}</tool_call> and more"
    for size in (1, 5, 1000):
        assert told(ToolChoice("auto", ("f", "g"), is_parallel=False), HERMES, text, size) == (
            "",
            [("f", '{"a": "x"}')],
        )


def test_forced_calls_are_the_whole_answer():
    text = '[{"name":"f","arguments":{"a":"x"}},{"name":"g","arguments":{}}]'
    for size in (1, 2, 5, 1000):
        assert told(ToolChoice("required", ("f", "g")), None, text, size) == ("", [("f", '{"a":"x"}'), ("g", "{}")])
        assert told(ToolChoice("named", ("f",)), None, '{"a":"x"}', size) == ("", [("f", '{"a":"x"}')])
        assert told(ToolChoice("required", ("f", "g")), None, '[{"name":"f","argum', size) == ("", [])
    assert parser_of(AUTO, None) is None
