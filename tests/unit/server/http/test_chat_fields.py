"""Every field of OpenAI's requests is honoured or refused by name; what its types list and this file does not fails."""

import typing
from typing import Any, NamedTuple

import pytest
from openai.types import chat
from openai.types.chat.chat_completion_content_part_image_param import ImageURL
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from openai.types.shared_params.response_format_json_schema import JSONSchema

from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.http.schemas.vllm_fields import VllmFields

from ....support.app_requests import body, image, send, text, user

pytestmark = pytest.mark.anyio

TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
BREAKPOINT = {"mode": "explicit"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


class Values(NamedTuple):
    """Of a field: what is taken, because it is honoured or asks for nothing, and what is refused."""

    taken: list[Any]
    refused: list[Any]


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


def formatted(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


REQUEST = {
    "messages": Values([[user("Hi")]], [[], "Hi", [{}], None]),
    "model": Values(["m"], ["", 3, None]),
    "stream": Values([True, False], ["true", 1]),
    "stream_options": Values([], ["x", {"surprise": 1}]),  # see STREAM_OPTIONS
    "max_tokens": Values([1, 10**9], [0, -1, 1.5, "1"]),
    "max_completion_tokens": Values([1, 10**9], [0, -1, 1.5, "1"]),
    "n": Values([1, 2, 8], [0, 9, True]),
    "temperature": Values([0, 2, 0.5], [-0.1, 2.1, "1", float("nan")]),
    "top_p": Values([0, 1, 0.5], [-0.1, 1.1, float("nan")]),
    "seed": Values([0, -(2**63), 2**63 - 1], [2**63, 1.5]),
    "stop": Values(["a", [], ["a"], ["a", "b", "c", "d"]], ["", [""], ["a"] * 5, 3]),
    "presence_penalty": Values([-2, 0, 2], [-2.1, 2.1]),
    "frequency_penalty": Values([-2, 0, 2], [-2.1, 2.1]),
    "logit_bias": Values([{}, {"5": -100, "911": 100}], [{"5": 101}, {"a": 1}, {"-1": 1}, {"01": 1}, {"912": 1}, []]),
    "logprobs": Values([True, False], [3]),
    "top_logprobs": Values([0], [-1, 21, 3]),  # 3 needs logprobs
    "response_format": Values(
        [{"type": "text"}, {"type": "json_object"}, formatted(SCHEMA)],
        [{"type": "xml"}, {"type": []}, "text", formatted(deep(51)), formatted({"a": "x" * 65536})],
    ),
    "user": Values(["me", ""], [3]),
    "safety_identifier": Values(["me"], ["x" * 129]),
    "prompt_cache_key": Values(["k"], [3]),
    "metadata": Values(
        [{}, {"a" * 64: "b" * 512}, {str(i): "" for i in range(16)}],
        [{"a" * 65: ""}, {"a": "b" * 513}, {"a": 1}, {str(i): "" for i in range(17)}],
    ),
    "modalities": Values([["text"]], [[], ["text", "audio"], ["audio"]]),
    "parallel_tool_calls": Values([True, False], ["no"]),
    "reasoning_effort": Values(["none"], ["minimal", "low", "medium", "high", "xhigh", "max"]),
    "service_tier": Values(["auto", "default"], ["flex", "scale", "priority", "fast"]),
    "store": Values([False], [True, 0]),
    "verbosity": Values(["medium"], ["low", "high"]),
    "audio": Values([], [{"voice": "ash", "format": "wav"}]),
    "function_call": Values(["none", "auto"], [{"name": "f"}]),
    "functions": Values([[]], [[{"name": "f"}]]),
    "moderation": Values([], [{"model": "m"}]),
    "prediction": Values([], [{"type": "content", "content": "a"}]),
    "prompt_cache_options": Values([], [{"mode": "implicit"}]),
    "prompt_cache_retention": Values([], ["in_memory", "24h"]),
    "tool_choice": Values(["none", "auto"], ["required", {"type": "function", "function": {"name": "f"}}]),
    "tools": Values([[]], [[TOOL], {}]),
    "web_search_options": Values([], [{}]),
}
REQUIRED = {"messages", "model"}

STREAM_OPTIONS = {
    "include_usage": Values([True, False, None], [3]),
    "include_obfuscation": Values([False, None], [True]),
}
IMAGE = {
    "url": Values([], ["https://example.com/a.png", 3]),
    "detail": Values(["auto", "low", "high", "original", None], ["tiny"]),
}
JSON_SCHEMA = {
    "name": Values(["a-B_1"], ["", "a b", "a" * 65, None]),
    "description": Values(["a thing", None], [3]),
    "schema": Values([SCHEMA, {}, deep(50)], [None, True, "x"]),
    "strict": Values([True, False, None], ["yes"]),
}
NAME = Values(["me", None], ["", "x" * 65])
MESSAGES = {
    "system": {"content": Values(["a", [text("a")]], [None, [], [image()]]), "name": NAME},
    "developer": {"content": Values(["a", [text("a")]], [None, [image()]]), "name": NAME},
    "user": {"content": Values(["", "a", [text("a"), image()]], [None, [], 3]), "name": NAME},
    "assistant": {
        "content": Values(["", None, [text("a"), {"type": "refusal", "refusal": "no"}]], [[image()]]),
        "name": NAME,
        "refusal": Values(["I cannot", None], [3]),
        "audio": Values([None], [{"id": "a"}]),
        "function_call": Values([None], [{"name": "f", "arguments": ""}]),
        "tool_calls": Values([None, []], [[CALL]]),
    },
}  # fmt: skip
PARTS = {
    "text": {"text": Values(["", "a"], [None, 3]), "prompt_cache_breakpoint": Values([None], [BREAKPOINT])},
    "image_url": {"image_url": Values([], [None, "url"]), "prompt_cache_breakpoint": Values([None], [BREAKPOINT])},
    "refusal": {"refusal": Values(["no"], [None])},
}
REFUSED_ROLES = {"tool", "function"}
REFUSED_PARTS = {"input_audio", "file"}


def fields_of(*kinds: Any) -> set[str]:
    return {name for kind in kinds for name in kind.__annotations__}


def literal(kind: Any, field: str) -> str:
    """The one value that a field of a TypedDict may have, as a message's role."""
    hint = typing.get_type_hints(kind)[field]
    (value,) = typing.get_args(hint)
    return value


def examples(table: dict[str, Values], which: str) -> list[tuple[str, Any]]:
    return [(field, value) for field, values in table.items() for value in getattr(values, which)]


async def assert_taken(app, request: dict[str, Any]) -> None:
    reply = await send(app, request)
    assert reply.status_code == 200, reply.text


async def assert_refused(app, request: dict[str, Any], field: str) -> None:
    reply = await send(app, request)
    error = reply.json()["error"]
    assert reply.status_code == (404 if error["code"] == "model_not_found" else 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(field), error
    assert error["param"] in error["message"] or error["code"] or "The JSON Schema" in error["message"], error


# --- the fields of a request ------------------------------------------------------------------------------------------


def test_openai_has_no_field_that_is_not_listed_here():
    openais = fields_of(CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming)
    assert set(REQUEST) == openais == set(ChatRequest.model_fields) - set(VllmFields.model_fields) - {"lookonce"}
    assert set(STREAM_OPTIONS) == fields_of(chat.ChatCompletionStreamOptionsParam)
    assert set(JSON_SCHEMA) == fields_of(JSONSchema)


@pytest.mark.parametrize(("field", "value"), examples(REQUEST, "taken"), ids=str)
async def test_a_value_that_is_honoured_is_taken(app, field, value):
    await assert_taken(app, body(**{field: value}))


@pytest.mark.parametrize("field", [*(set(REQUEST) - REQUIRED), "lookonce"])
async def test_null_is_the_same_as_nothing(app, field):
    await assert_taken(app, body(**{field: None}))


@pytest.mark.parametrize(("field", "value"), examples(REQUEST, "refused"), ids=lambda v: repr(v)[:40])
async def test_a_value_that_is_not_is_refused_by_name(app, field, value):
    await assert_refused(app, body(**{field: value}), field)


@pytest.mark.parametrize("field", REQUIRED)
async def test_what_is_required_is_asked_for(app, field):
    request = body()
    del request[field]
    await assert_refused(app, request, field)


@pytest.mark.parametrize("field", ["prompt", "surprise"])
async def test_what_is_not_openais_is_refused_by_name(app, field):
    await assert_refused(app, body(**{field: 1}), field)


@pytest.mark.parametrize(("field", "value"), examples(STREAM_OPTIONS, "taken"))
async def test_stream_options_are_taken(app, field, value):
    await assert_taken(app, body(stream=True, stream_options={field: value}))


@pytest.mark.parametrize(("field", "value"), examples(STREAM_OPTIONS, "refused"))
async def test_stream_options_are_refused_by_name(app, field, value):
    await assert_refused(app, body(stream=True, stream_options={field: value}), f"stream_options.{field}")


async def test_stream_options_without_a_stream_are_refused(app):
    await assert_refused(app, body(stream_options={"include_usage": True}), "stream_options")


@pytest.mark.parametrize(("field", "value"), examples(JSON_SCHEMA, "taken"))
async def test_a_json_schema_format_is_taken(app, field, value):
    wanted = formatted(SCHEMA)
    wanted["json_schema"][field] = value
    await assert_taken(app, body(response_format=wanted))


@pytest.mark.parametrize(("field", "value"), examples(JSON_SCHEMA, "refused"))
async def test_what_is_wrong_in_a_json_schema_format_is_refused_by_name(app, field, value):
    wanted = formatted(SCHEMA)
    wanted["json_schema"][field] = value
    await assert_refused(app, body(response_format=wanted), f"response_format.json_schema.{field}")


# --- the fields of a message ------------------------------------------------------------------------------------------


def test_openai_has_no_role_or_field_of_a_message_that_is_not_listed_here():
    kinds = {literal(kind, "role"): kind for kind in typing.get_args(chat.ChatCompletionMessageParam)}
    assert set(kinds) == set(MESSAGES) | REFUSED_ROLES
    for role, fields in MESSAGES.items():
        assert {"role", *fields} == fields_of(kinds[role]), role


def test_openai_has_no_part_of_a_message_that_is_not_listed_here():
    kinds = {literal(kind, "type"): kind for kind in typing.get_args(chat.ChatCompletionContentPartParam)}
    assert {*kinds, "refusal"} == set(PARTS) | REFUSED_PARTS
    kinds["refusal"] = chat.ChatCompletionContentPartRefusalParam
    for kind, fields in PARTS.items():
        assert {"type", *fields} == fields_of(kinds[kind]), kind
    assert set(IMAGE) == fields_of(ImageURL)


def with_message(role: str, **fields: Any) -> dict[str, Any]:
    return body(messages=[{"role": role, "content": "a"} | fields, user("Hi")])


@pytest.mark.parametrize("role", MESSAGES)
async def test_fields_of_a_message_are_taken(app, role):
    for field, value in examples(MESSAGES[role], "taken"):
        await assert_taken(app, with_message(role, **{field: value}))


@pytest.mark.parametrize("role", MESSAGES)
async def test_fields_of_a_message_are_refused_by_name(app, role):
    for field, value in [*examples(MESSAGES[role], "refused"), ("surprise", 1)]:
        await assert_refused(app, with_message(role, **{field: value}), f"messages[0].{field}")


@pytest.mark.parametrize("role", sorted(REFUSED_ROLES))
async def test_roles_that_are_not_there_are_refused_by_name(app, role):
    await assert_refused(app, with_message(role), "messages[0].role")


async def test_an_answer_is_taken_back_as_it_was_given(app):
    """As agents do: messages.append(completion.choices[0].message), or all of it from a client that fills in nulls."""
    answer = (await send(app, body())).json()["choices"][0]["message"]
    for message in (answer, chat.ChatCompletionMessage(**answer).model_dump(), answer | {"annotations": []}):
        await assert_taken(app, body(messages=[user("Hi"), message, user("And?")]))


@pytest.mark.parametrize("kind", PARTS)
async def test_parts_are_refused_by_name(app, kind):
    whole = {"text": text("a"), "image_url": image(), "refusal": {"type": "refusal", "refusal": "no"}}[kind]
    role = "assistant" if kind == "refusal" else "user"
    for field, value in [*examples(PARTS[kind], "refused"), ("surprise", 1)]:
        await assert_refused(
            app, with_message(role, content=[whole | {field: value}]), f"messages[0].content[0].{field}"
        )
    for field, value in examples(PARTS[kind], "taken"):
        await assert_taken(app, with_message(role, content=[whole | {field: value}]))


@pytest.mark.parametrize("kind", sorted(REFUSED_PARTS))
async def test_parts_that_are_not_there_are_refused_by_name(app, kind):
    reply = await send(app, body(messages=[user(text("a"), {"type": kind, kind: {}})]))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "messages[0].content[1]")
    assert kind in error["message"]


@pytest.mark.parametrize(("field", "value"), examples(IMAGE, "taken"))
async def test_the_detail_of_an_image_is_taken(app, field, value):
    await assert_taken(app, body(messages=[user("Hi", image(**{field: value}))]))


@pytest.mark.parametrize(("field", "value"), [*examples(IMAGE, "refused"), ("surprise", 1)])
async def test_fields_of_an_image_are_refused_by_name(app, field, value):
    request = body(messages=[user("Hi", image(**{field: value}))])
    await assert_refused(app, request, f"messages[0].content[1].image_url.{field}")


@pytest.mark.parametrize("role", ["user", "system", "developer"])
async def test_a_refusal_is_the_assistants(app, role):
    await assert_refused(app, with_message(role, refusal="no"), "messages[0].refusal")
    part = {"type": "refusal", "refusal": "no"}
    await assert_refused(app, with_message(role, content=[part]), "messages[0].content[0]")


@pytest.mark.parametrize("content", ["x" * 65_536, "red " * 2_500_000], ids=["one more", "10 MB"])
async def test_text_that_cannot_fit_is_refused_before_its_tokens_are_counted(app, engine, monkeypatch, content):
    monkeypatch.setattr(engine, "_prompts", None)
    reply = await send(app, body(messages=[user("x"), user(content)]))
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert error["message"].startswith(
        "This model's maximum context length is 2048 tokens. However, the messages have "
    )
    assert f"{len(content) + 1} characters" in error["message"]
