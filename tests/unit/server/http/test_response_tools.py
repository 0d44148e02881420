"""Tools in the Responses API: calls are items of the output and its events, and results are items of the input."""

import json

import jsonschema
import pytest

from ....support.app_requests import URL
from ....support.responses_requests import asked, refused, streamed
from ....support.tool_schemas import COLOR, COUNT

pytestmark = pytest.mark.anyio

TOOLS = [
    {"type": "function", "name": "report_color", "parameters": COLOR, "strict": True, "description": "Tell it."},
    {"type": "function", "name": "report_count", "parameters": COUNT, "strict": None, "description": None},
]
NAMED = {"type": "function", "name": "report_color"}
IMAGE = {"type": "input_image", "image_url": URL, "detail": "auto"}
QUESTION = {"role": "user", "content": [IMAGE, {"type": "input_text", "text": "What color is it?"}]}
CALL = {"type": "function_call", "call_id": "c", "name": "report_color", "arguments": '{"color":"red"}'}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "Noted."}
FORCED = {"tools": TOOLS, "tool_choice": NAMED, "max_output_tokens": 80}


async def test_a_forced_call_is_an_item_of_the_output_and_a_stream_brings_it_in_pieces(client):
    await asked(client, [QUESTION], lookonce={"on_miss": "compress"})
    first = await asked(client, [QUESTION], **FORCED)
    (call,) = first["output"]
    jsonschema.validate(json.loads(call["arguments"]), COLOR)
    assert (call["type"], call["name"], call["status"], first["status"]) == (
        "function_call",
        "report_color",
        *["completed"] * 2,
    )
    assert (first["tools"], first["tool_choice"]) == (TOOLS, NAMED)
    events = await streamed(client, [QUESTION], **FORCED)
    kinds = [event["type"].removeprefix("response.") for event in events]
    deltas = [event["delta"] for event in events if event["type"].endswith("arguments.delta")]
    assert kinds == [
        *("created", "in_progress", "output_item.added"),
        *["function_call_arguments.delta"] * len(deltas),
        *("function_call_arguments.done", "output_item.done", "completed"),
    ]
    assert len(deltas) > 1
    (streamed_call,) = events[-1]["response"]["output"]
    assert "".join(deltas) == streamed_call["arguments"] == call["arguments"]
    assert {event["item_id"] for event in events if "item_id" in event} == {streamed_call["id"]}


async def test_several_calls_are_items_in_order(client):
    fields = {"tools": TOOLS, "tool_choice": "required", "max_output_tokens": 200}
    await asked(client, [QUESTION], lookonce={"on_miss": "compress"})
    whole = await asked(client, [QUESTION], **fields)
    events = await streamed(client, [QUESTION], **fields)
    calls = [(item["name"], item["arguments"]) for item in events[-1]["response"]["output"]]
    assert calls == [(item["name"], item["arguments"]) for item in whole["output"]]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]


async def test_a_call_that_is_cut_is_incomplete(client):
    for response in (
        await asked(client, [QUESTION], **FORCED | {"max_output_tokens": 3}),
        (await streamed(client, [QUESTION], **FORCED | {"max_output_tokens": 3}))[-1]["response"],
    ):
        assert (response["status"], [item["status"] for item in response["output"]]) == ("incomplete", ["incomplete"])


async def test_results_go_on_from_a_response_or_come_with_the_whole_conversation(client):
    first = await asked(client, [QUESTION], **FORCED)
    (call,) = first["output"]
    picture = [{"type": "input_text", "text": "A part:"}, IMAGE]
    for output in ("Noted.", picture):
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": output}
        went_on = await asked(client, [result], previous_response_id=first["id"])
        whole = await asked(client, [QUESTION, call, result])
        assert went_on["output"][0]["content"] == whole["output"][0]["content"]
    listed = (await client.get(f"/v1/responses/{went_on['id']}/input_items", params={"order": "asc"})).json()["data"]
    assert [item["type"] for item in listed] == ["message", "function_call", "function_call_output"]
    assert [item["call_id"] for item in listed[1:]] == [call["call_id"]] * 2
    assert [part["type"] for part in listed[2]["output"]] == ["input_text", "input_image"]


async def test_what_is_wrong_is_refused_by_name(client):
    text = {"role": "assistant", "content": "Hm."}
    for items, param in (
        ([QUESTION, RESULT], "input[1].call_id"),
        ([QUESTION, text, CALL, RESULT | {"call_id": "d"}], "input[3].call_id"),
        ([QUESTION, text, CALL, CALL, RESULT], "input[3].call_id"),
        ([QUESTION, CALL | {"name": "a b"}, RESULT], "input[1].name"),
        ([QUESTION, CALL, RESULT | {"output": [{"type": "input_text"}]}], "input[2].output[0].text"),
        ([QUESTION, CALL, RESULT | {"output": [IMAGE | {"image_url": "data:x"}]}], "input[2].output[0].image_url"),
    ):
        error = await refused(client, input_=items)
        assert error["param"] == param, (items, error)
    for fields, param in (
        ({"tools": TOOLS}, "tools"),
        ({"tools": [*TOOLS, TOOLS[0]], "tool_choice": "required"}, "tools[2].name"),
        ({"tools": TOOLS, "tool_choice": NAMED | {"name": "x"}}, "tool_choice"),
        ({"tools": [TOOLS[0] | {"parameters": {"type": "strng"}}], "tool_choice": NAMED}, "tools[0].parameters"),
    ):
        error = await refused(client, **fields)
        assert error["param"] == param, (fields, error)
