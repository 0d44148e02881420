"""Forced calls are of the tools' schemas, whole and in pieces; what a model or a request cannot have is refused."""

import json
from typing import Any

import jsonschema
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from lookonce_server.http.schemas import answers

from ....support.app_requests import body, events_of, image, send, user
from ....support.tool_schemas import COLOR, COUNT

pytestmark = pytest.mark.anyio


def tool(name: str, parameters: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters} | more}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


TOOLS = [tool("report_color", COLOR, description="Tell a <|user|> color."), tool("report_count", COUNT), tool("stop")]
SCHEMAS = {"report_color": COLOR, "report_count": COUNT, "stop": {"maxProperties": 0}}
CALL = {"id": "abc", "type": "function", "function": {"name": "report_color", "arguments": '{"color":"red"}'}}
RESULT = {"role": "tool", "tool_call_id": "abc", "content": "Noted."}


def asked(**fields: Any) -> dict[str, Any]:
    return body(max_tokens=300, **{"messages": [user("What color is it?", image())], "tools": TOOLS} | fields)


def check_calls(message: dict[str, Any]) -> list[str]:
    for call in message["tool_calls"]:
        assert call["type"] == "function"
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[call["function"]["name"]])
    ids = [call["id"] for call in message["tool_calls"]]
    assert len(set(ids)) == len(ids)
    return [call["function"]["name"] for call in message["tool_calls"]]


async def test_forced_calls_keep_to_the_schemas_and_streams_bring_the_same(app):
    await send(app, asked(tool_choice="none") | {"lookonce": {"on_miss": "compress"}})
    for fields in (
        {"tool_choice": named("report_color")},
        {"tool_choice": named("report_count"), "n": 2},
        {"tool_choice": named("stop")},
        {"tool_choice": "required", "parallel_tool_calls": False},
        {"tool_choice": "required", "parallel_tool_calls": False, "logprobs": True},
    ):
        whole = (await send(app, asked(**fields))).json()
        assert whole["lookonce"]["cache"] == "hit"
        answers.ChatCompletion.model_validate_json(json.dumps(whole), strict=True)
        read = ChatCompletion.model_validate(whole, strict=True)
        reply = await send(app, asked(**fields, stream=True))
        state = ChatCompletionStreamState()
        for chunk in events_of(reply):
            answers.ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True)
            state.handle_chunk(ChatCompletionChunk.model_validate(chunk, strict=True))
        streamed = state.get_final_completion()
        for choice, other in zip(read.choices, streamed.choices, strict=True):
            assert choice.finish_reason == other.finish_reason == "tool_calls"
            assert choice.message.content is None
            names = check_calls(choice.message.to_dict())
            assert [(c.function.name, c.function.arguments) for c in choice.message.tool_calls] == [
                (c.function.name, c.function.arguments) for c in other.message.tool_calls
            ]
            if fields["tool_choice"] != "required":
                assert names == [fields["tool_choice"]["function"]["name"]]
            elif "parallel_tool_calls" in fields:
                assert len(names) == 1


async def test_a_call_that_is_cut_says_so(app):
    choice = (await send(app, asked(tool_choice=named("report_color")) | {"max_tokens": 3})).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"].startswith('{"')


async def test_a_stream_begins_with_the_name_and_goes_on_with_the_arguments(app):
    chunks = events_of(await send(app, asked(tool_choice=named("report_color"), stream=True)))
    deltas = [d for c in chunks for choice in c["choices"] for d in choice["delta"].get("tool_calls") or ()]
    first, *rest = deltas
    assert (first["index"], first["type"], first["function"]["name"]) == (0, "function", "report_color")
    assert first["id"].startswith("call_")
    assert len(rest) > 1
    assert all(set(delta) == {"index", "function"} and set(delta["function"]) == {"arguments"} for delta in rest)
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_results_come_back_with_images_in_them(app):
    result = RESULT | {"content": [{"type": "text", "text": "A picture:"}, image()]}
    for cache in ("miss", "hit"):
        messages = [user("Look!"), {"role": "assistant", "content": None, "tool_calls": [CALL]}, result]
        reply = await send(app, body(messages=messages, lookonce={"on_miss": "compress"} if cache == "hit" else {}))
        assert reply.status_code == 200, reply.text
        assert reply.json()["lookonce"]["cache"] == ("hit" if cache == "hit" else "miss")


async def test_an_answer_is_sent_back_as_it_came(app):
    first = (await send(app, asked(tool_choice=named("report_color")))).json()["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "Noted."} for call in first["tool_calls"]]
    messages = [user("What color is it?", image()), first, *results]
    for more in ([], [user("And now?")], [{"role": "assistant", "content": "Done."}, user("And now?")]):
        for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": TOOLS, "tool_choice": "required"}):
            reply = await send(app, body(messages=[*messages, *more], max_tokens=60, **fields))
            assert reply.status_code == 200, reply.text
            has_calls = "tool_calls" in reply.json()["choices"][0]["message"]
            assert has_calls == (fields.get("tool_choice") == "required")


async def test_a_model_without_tools_cannot_choose_them(app, engine):
    assert engine.facts.no_tools == "This model's chat template knows no tools."
    for fields in ({}, {"tool_choice": "auto"}):
        reply = await send(app, asked(**fields))
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (400, "tools")
        assert "cannot choose tools" in error["message"]
        assert "tool_choice 'required'" in error["message"]
    assert (await send(app, asked(tool_choice="none"))).status_code == 200


async def test_wrong_tools_are_refused_by_name(app):
    deep = {"type": "object", "properties": {"a": {}}}
    for _ in range(30):
        deep = {"type": "object", "properties": {"a": deep}}
    for fields, param in (
        ({"tools": [tool("a"), tool("a")]}, "tools[1].function.name"),
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool("a" * 65)]}, "tools[0].function.name"),
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0].type"),
        ({"tools": [tool(f"f{i}") for i in range(129)]}, "tools"),
        ({"tools": [tool("a", deep)]}, "tools[0].function.parameters"),
        ({"tools": [tool("a", surprise=1)]}, "tools[0].function.surprise"),
        ({"tool_choice": named("b")}, "tool_choice"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice.type"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool("a", {"type": "strng"})], "tool_choice": named("a")}, "tools[0].function.parameters"),
        (
            {"tools": [tool("a"), tool("b", {"properties": {"x": {"uniqueItems": True}}})], "tool_choice": "required"},
            "tools[1].function.parameters",
        ),
        ({"tools": [tool("a", COLOR, description="x" * 70_000)], "tool_choice": "required"}, "messages"),
    ):
        reply = await send(app, asked(**fields))
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (400, param), (fields, error)


async def test_calls_and_results_belong_together(app):
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    other = RESULT | {"tool_call_id": "abd"}
    for messages, param in (
        ([user("Hi"), RESULT], "messages[1].tool_call_id"),
        ([user("Hi"), call, other], "messages[2].tool_call_id"),
        ([user("Hi"), call, RESULT, RESULT], "messages[3].tool_call_id"),
        ([user("Hi"), call, {"role": "tool", "content": "x"}], "messages[2].tool_call_id"),
        ([user("Hi"), call, user("And?")], "messages[2]"),
        ([user("Hi"), call | {"tool_calls": [CALL, CALL]}, RESULT], "messages[1].tool_calls[1].id"),
        ([user("Hi"), call | {"tool_calls": [CALL, CALL | {"id": "b"}]}, RESULT], "messages[2]"),
        ([user("Hi"), call, RESULT | {"content": None}], "messages[2].content"),
        ([user("Hi") | {"tool_calls": [CALL]}, user("Hi")], "messages[0].tool_calls"),
        ([user("Hi") | {"tool_call_id": "abc"}, user("Hi")], "messages[0].tool_call_id"),
        ([user("Hi"), call | {"tool_calls": [CALL | {"id": ""}]}, RESULT], "messages[1].tool_calls[0].id"),
        ([user("Hi"), call], "messages[1].role"),
    ):
        reply = await send(app, body(messages=messages))
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (400, param), (messages, error)


async def test_first_interface_is_answered_with_the_new_one(app):
    for fields in ({"functions": [{"name": "f"}]}, {"function_call": {"name": "f"}}):
        error = (await send(app, body(**fields))).json()["error"]
        assert (error["param"], "send tools, tool_choice" in error["message"]) == (next(iter(fields)), True)
