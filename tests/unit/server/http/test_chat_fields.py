"""Every field of OpenAI's requests is honoured or refused by name; what its types list and this file does not fails."""

import typing
from typing import Any

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

from ....support.app_requests import URL, body, image, send, text, user
from ....support.chat_fields import (
    IMAGE,
    JSON_SCHEMA,
    MESSAGES,
    PARTS,
    REFUSED_PARTS,
    REFUSED_ROLES,
    REQUEST,
    REQUIRED,
    SCHEMA,
    STREAM_OPTIONS,
    assert_refused,
    assert_taken,
    examples,
    formatted,
)

pytestmark = pytest.mark.anyio


def fields_of(*kinds: Any) -> set[str]:
    return {name for kind in kinds for name in kind.__annotations__}


def literal(kind: Any, field: str) -> str:
    """The one value that a field of a TypedDict may have, as a message's role."""
    hint = typing.get_type_hints(kind)[field]
    (value,) = typing.get_args(hint)
    return value


# --- the fields of a request ------------------------------------------------------------------------------------------


def test_openai_has_no_field_that_is_not_listed_here():
    openais = fields_of(CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming)
    assert set(REQUEST) == openais == set(ChatRequest.model_fields) - set(VllmFields.model_fields) - {"lookonce"}
    assert set(STREAM_OPTIONS) == fields_of(chat.ChatCompletionStreamOptionsParam)
    assert set(JSON_SCHEMA) == fields_of(JSONSchema)


async def test_a_value_that_is_honoured_is_taken(app):
    for field, value in examples(REQUEST, "taken"):
        await assert_taken(app, body(**{field: value}))


async def test_null_is_the_same_as_nothing(app):
    for field in {*REQUEST, "lookonce"} - REQUIRED:
        await assert_taken(app, body(**{field: None}))


async def test_a_value_that_is_not_is_refused_by_name(app):
    for field, value in examples(REQUEST, "refused"):
        await assert_refused(app, body(**{field: value}), field)


async def test_what_is_required_is_asked_for(app):
    for field in REQUIRED:
        request = body()
        del request[field]
        await assert_refused(app, request, field)


async def test_what_is_not_openais_is_refused_by_name(app):
    for field in ("prompt", "surprise"):
        await assert_refused(app, body(**{field: 1}), field)


async def test_stream_options_are_taken(app):
    for field, value in examples(STREAM_OPTIONS, "taken"):
        await assert_taken(app, body(stream=True, stream_options={field: value}))


async def test_stream_options_are_refused_by_name(app):
    for field, value in examples(STREAM_OPTIONS, "refused"):
        await assert_refused(app, body(stream=True, stream_options={field: value}), f"stream_options.{field}")


async def test_stream_options_without_a_stream_are_refused(app):
    await assert_refused(app, body(stream_options={"include_usage": True}), "stream_options")


def with_format(**fields: Any) -> dict[str, Any]:
    wanted = formatted(SCHEMA)
    wanted["json_schema"] |= fields
    return body(response_format=wanted)


async def test_a_json_schema_format_is_taken(app):
    for field, value in examples(JSON_SCHEMA, "taken"):
        await assert_taken(app, with_format(**{field: value}))


async def test_what_is_wrong_in_a_json_schema_format_is_refused_by_name(app):
    for field, value in examples(JSON_SCHEMA, "refused"):
        await assert_refused(app, with_format(**{field: value}), f"response_format.json_schema.{field}")


# --- the fields of a message ------------------------------------------------------------------------------------------


def test_openai_has_no_role_or_field_of_a_message_that_is_not_listed_here():
    kinds = {literal(kind, "role"): kind for kind in typing.get_args(chat.ChatCompletionMessageParam)}
    assert set(kinds) == set(MESSAGES) | REFUSED_ROLES | {"tool"}  # see test_tools
    assert fields_of(kinds["tool"]) == {"role", "content", "tool_call_id"}
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
    file = {"type": "file", "file": {"file_data": URL}}
    refusal = {"type": "refusal", "refusal": "no"}
    whole = {"text": text("a"), "image_url": image(), "refusal": refusal, "file": file}[kind]
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


async def test_the_detail_of_an_image_is_taken(app):
    for field, value in examples(IMAGE, "taken"):
        await assert_taken(app, body(messages=[user("Hi", image(**{field: value}))]))


async def test_fields_of_an_image_are_refused_by_name(app):
    for field, value in [*examples(IMAGE, "refused"), ("surprise", 1)]:
        request = body(messages=[user("Hi", image(**{field: value}))])
        await assert_refused(app, request, f"messages[0].content[1].image_url.{field}")


@pytest.mark.parametrize("role", ["user", "system", "developer"])
async def test_a_refusal_is_the_assistants(app, role):
    await assert_refused(app, with_message(role, refusal="no"), "messages[0].refusal")
    part = {"type": "refusal", "refusal": "no"}
    await assert_refused(app, with_message(role, content=[part]), "messages[0].content[0]")


@pytest.mark.parametrize("content", ["x" * 131_072, "red " * 2_500_000], ids=["one more", "10 MB"])
async def test_text_that_cannot_fit_is_refused_before_its_tokens_are_counted(app, engine, monkeypatch, content):
    monkeypatch.setattr(engine, "_prompts", None)
    reply = await send(app, body(messages=[user("x"), user(content)]))
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert error["message"].startswith(
        "This model's maximum context length is 4096 tokens. However, the messages have "
    )
    assert f"{len(content) + 1} characters" in error["message"]
