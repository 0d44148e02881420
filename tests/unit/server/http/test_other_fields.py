"""What clients send beside OpenAI's fields: vLLM's own, what answers bring along when they come back, and nulls."""

from typing import Any

import pytest
from openai.types import chat

from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.http.schemas.messages import AnswerExtras
from lookonce_server.http.schemas.vllm_fields import VllmFields

from ....support.app_requests import body, image, send, text, user
from ....support.chat_fields import SCHEMA, assert_refused, assert_taken, formatted
from ....support.responses_requests import asked, refused
from ....support.vllm_fields import ALL, HONOURED, LABELS, NEUTRAL, OLDER

pytestmark = pytest.mark.anyio

# By the client that sends it.
EXTRAS: dict[str, dict[str, Any]] = {
    "openai, of parse()": {"parsed": {"color": "red"}},
    "openai, of web searches": {
        "annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.example"}}]
    },
    "openai, of stored completions": {"id": "chatcmpl-1-0"},
    "LiteLLM": {
        "provider_specific_fields": {"refusal": None},
        "reasoning_content": "Hm.",
        "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}],
        "reasoning_items": [{"type": "reasoning", "id": "rs_1"}],
    },
    "vLLM": {"reasoning": "Hm."},
    "OpenRouter": {"reasoning": "Hm.", "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]},
}
NULLS = dict.fromkeys(
    ("tool_calls", "function_call", "audio", "refusal", "images", "surprise", *AnswerExtras.model_fields)
)


# --- vLLM's fields ----------------------------------------------------------------------------------------------------


def test_the_tables_have_each_field():
    assert VllmFields.model_fields.keys() == ALL | OLDER.keys()


async def test_what_asks_for_nothing_is_taken(app):
    everything = NEUTRAL | OLDER
    for i in range(max(len(found.taken) for found in everything.values())):
        fields = {name: found.taken[min(i, len(found.taken) - 1)] for name, found in everything.items() if found.taken}
        await assert_taken(app, body(**fields))
    for i in range(2):
        await assert_taken(app, body(**{name: taken[min(i, len(taken) - 1)] for name, taken in LABELS.items()}))
    await assert_taken(app, body(**dict.fromkeys(ALL | OLDER.keys())))


async def test_what_is_not_honoured_is_refused_in_words_that_help(app):
    for name, found in (NEUTRAL | OLDER).items():
        for value in found.refused:
            reply = await send(app, body(**{name: value}))
            error = reply.json()["error"]
            assert (reply.status_code, error["param"]) == (400, name), (value, error)
            assert error["message"].startswith(f"{name}: ")
            assert found.why in error["message"], error
            assert "leave it out" in error["message"]


async def test_what_is_honoured_is_taken_within_its_bounds(app):
    for name, (taken, wrong) in HONOURED.items():
        for value in taken:
            await assert_taken(app, body(temperature=1, **{name: value}))
        for value in wrong:
            await assert_refused(app, body(**{name: value}), name)


# --- tools ------------------------------------------------------------------------------------------------------------


async def test_a_choice_without_tools_is_harmless(app, client):
    for fields in ({"tool_choice": "auto"}, {"tools": [], "tool_choice": "none"}, {"function_call": "auto"}):
        await assert_taken(app, body(**fields))
    await assert_refused(app, body(tool_choice="required"), "tool_choice")
    error = await refused(client, tool_choice="required")
    assert error["param"] == "tool_choice"
    await asked(client, tools=None, tool_choice=None)


# --- answers that come back as history --------------------------------------------------------------------------------


async def test_what_answers_bring_along_is_taken_back_and_changes_nothing(app, monkeypatch):
    assert set().union(*EXTRAS.values()) == set(AnswerExtras.model_fields)
    seen: list[Any] = []
    sessions = app.state.parts.sessions
    ask = sessions.ask

    async def noted(conversation, *args, **kwargs):
        seen.append(conversation)
        return await ask(conversation, *args, **kwargs)

    monkeypatch.setattr(sessions, "ask", noted)
    for extras in [{}, NULLS, *EXTRAS.values()]:
        answer = {"role": "assistant", "content": "Four.", **extras}
        await assert_taken(app, body(messages=[user("How many?"), answer, user("And now?")]))
    assert seen == [seen[0]] * len(seen)


async def test_what_answers_bring_along_is_the_assistants(app):
    for name, value in {name: value for extras in EXTRAS.values() for name, value in extras.items()}.items():
        await assert_refused(app, body(messages=[user("Hi") | {name: value}]), f"messages[0].{name}")
    for name, value in {"tool_calls": [{}], "function_call": {}, "audio": {"id": "a"}, "images": [{}]}.items():
        answer = {"role": "assistant", "content": "Four.", name: value}
        await assert_refused(app, body(messages=[user("Hi"), answer, user("Hi")]), f"messages[1].{name}")


async def test_openais_answers_are_taken_back(app):
    whole = (await send(app, body())).json()
    answer = chat.ParsedChatCompletion[dict].model_validate(whole).choices[0].message
    for message in (answer.model_dump(), answer.model_copy(update={"parsed": {"a": 1}}).model_dump()):
        await assert_taken(app, body(messages=[user("Hi"), message, user("And?")]))


# --- nulls ------------------------------------------------------------------------------------------------------------


async def test_unknown_nulls_are_taken_at_every_level_and_nothing_else_is(app):
    places = {
        "": lambda more: body(**more),
        "messages[0].": lambda more: body(messages=[user("Hi") | more]),
        "messages[0].content[0].": lambda more: body(messages=[{"role": "user", "content": [text("Hi") | more]}]),
        "messages[0].content[1].": lambda more: body(messages=[user("Hi", image() | more)]),
        "messages[0].content[1].image_url.": lambda more: body(messages=[user("Hi", image(**more))]),
        "stream_options.": lambda more: body(stream=True, stream_options=more),
        "response_format.": lambda more: body(response_format={"type": "json_object"} | more),
        "response_format.json_schema.": lambda more: body(
            response_format={"type": "json_schema", "json_schema": formatted(SCHEMA)["json_schema"] | more}
        ),
        "lookonce.": lambda more: body(lookonce=more),
    }
    for place, request in places.items():
        await assert_taken(app, request({"surprise": None}))
        await assert_refused(app, request({"surprise": False}), f"{place}surprise")


async def test_unknown_nulls_are_taken_of_responses_and_contexts_too(client):
    part = {"type": "input_text", "text": "Hi", "surprise": None}
    item = {"type": "message", "role": "user", "content": [part], "surprise": None}
    kind = {"type": "text", "surprise": None}
    shown = await asked(client, [item], text={"format": kind, "surprise": None}, surprise=None, reasoning=None)
    assert "surprise" not in str(shown)
    await asked(client, text=None, lookonce=None)
    error = await refused(client, input_=[item | {"surprise": 1}])
    assert error["param"] == "input[0].surprise"
    error = await refused(client, text={"format": {"type": "text", "surprise": 1}})
    assert error["param"] == "text.format.surprise"
    url = image()["image_url"]["url"]
    made = await client.post("/v1/contexts", json={"image_url": url, "surprise": None})
    assert made.status_code == 200, made.text
    wrong = await client.post("/v1/contexts", json={"image_url": url, "surprise": 1})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "surprise")


def test_openapi_tells_that_unknown_fields_may_be_null():
    assert ChatRequest.model_json_schema()["additionalProperties"] == {"type": "null"}
