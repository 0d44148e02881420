"""What a request to /v1/responses may have: each field of OpenAI's is honoured, or refused by its name."""

import json
from typing import get_type_hints

import pytest
from openai.types.responses.response_create_params import (
    ResponseCreateParamsBase,
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)

from lookonce_server.http.responses.request import ResponseRequest

from ....support.responses_requests import RESPONSE, about, asked, post, refused, text_of

pytestmark = pytest.mark.anyio
SCHEMA = {"type": "object", "properties": {"color": {"type": "string"}}}

HONOURED = {
    "input": "Hi",
    "model": "m",
    "include": ["message.output_text.logprobs"],
    "instructions": "Be brief.",
    "max_output_tokens": 2,
    "previous_response_id": None,
    "store": True,
    "stream": False,
    "stream_options": None,
    "temperature": 1,
    "text": {"format": {"type": "text"}},
    "top_logprobs": 0,
    "top_p": 0.5,
    "metadata": {"k": "v"},
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
}
ONE_VALUE = {  # accepted, and one that is not
    "background": (False, True),
    "parallel_tool_calls": (True, "x"),
    "prompt_cache_options": ({"ttl": "30m", "mode": "implicit"}, "30m"),
    "prompt_cache_retention": ("24h", "1h"),
    "service_tier": ("auto", "flex"),
    "tool_choice": ("auto", "required"),
    "tools": ([], {}),
    "truncation": ("disabled", "auto"),
}
REFUSED = {
    "access_programs": {"cyber": "standard"},
    "background_options": {"completion_window": "soonest"},
    "context_management": [{"type": "compaction"}],
    "conversation": "conv_1",
    "image": {"context_compression": "auto"},
    "max_tool_calls": 1,
    "moderation": {"model": "omni-moderation-latest"},
    "prompt": {"id": "pmpt_1"},
    "reasoning": {"effort": "low"},
}


def test_no_field_of_openais_is_forgotten():
    kinds = (ResponseCreateParamsBase, ResponseCreateParamsNonStreaming, ResponseCreateParamsStreaming)
    fields = {name for kind in kinds for name in get_type_hints(kind)}
    assert fields == HONOURED.keys() | ONE_VALUE.keys() | REFUSED.keys()
    assert ResponseRequest.model_fields.keys() == HONOURED.keys() | ONE_VALUE.keys() | {"lookonce"}


async def test_what_is_honoured_is_taken(client):
    await asked(client, **{name: value for name, value in HONOURED.items() if name != "input"})
    await asked(client, **{name: accepted for name, (accepted, _) in ONE_VALUE.items()})
    nothing = dict.fromkeys(("stream", "store", "temperature", "tools", "background", "metadata", "user"))
    await asked(client, **nothing)


@pytest.mark.parametrize(
    ("name", "value"), [*REFUSED.items(), *((name, bad) for name, (_, bad) in ONE_VALUE.items()), ("seed", 1)]
)
async def test_what_is_not_honoured_is_refused_by_name(client, name, value):
    error = await refused(client, **{name: value})
    assert (error["type"], error["param"]) == ("invalid_request_error", name)
    assert name in error["message"]


WRONG = [
    ({"input_": []}, "input", "at least 1 item"),
    ({"input_": 3}, "input", "given: 3"),
    ({"input_": {"str": 1}}, "input", "given: {'str': 1}"),
    ({"input_": [{"role": "user", "content": []}]}, "input[0].content", "at least 1 item"),
    ({"input_": [{"role": "tool", "content": "x"}]}, "input[0]", "'developer', 'user' or 'assistant'"),
    ({"input_": [{"type": "web_search_call", "name": "f"}]}, "input[0]", "must be a message"),
    ({"input_": [{"type": "reasoning", "id": "r", "summary": []}]}, "input", "reasoning alone"),
    ({"input_": [{"type": "reasoning", "summary": "none"}]}, "input[0].summary", "valid list"),
    (
        {"input_": [{"role": "user", "content": [{"type": "input_file"}]}]},
        "input[0].content[0].file_id",
        "Field required",
    ),
    (
        {"input_": [{"role": "user", "content": [{"type": "input_image", "file_id": 3, "detail": "low"}]}]},
        "input[0].content[0].file_id",
        "given: 3",
    ),
    ({"input_": [{"role": "assistant", "content": "Hi"}]}, "input[0].role", "must be the user's"),
    ({"input_": about("https://a.example/b.png")}, "input[0].content[0].image_url", "https://a.example/b.png"),
    ({"input_": about("data:image/png;base64,eA==")}, "input[0].content[0].image_url", "no image"),
    ({"input_": [about(f"lookonce:{i}")[0] for i in range(17)]}, "input[16].content[0].image_url", "at most 16"),
    ({"input_": [{**about("lookonce:1")[0], "role": "system"}]}, "input[0].content[0]", "a system message's part"),
    (
        {"input_": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]},
        "input[0].content[0]",
        "a user's part",
    ),
    ({"input_": "x " * 3000}, "input", "tokens"),
    ({"model": "another"}, "model", "not served"),
    ({"include": ["reasoning.encrypted_content"]}, "include[0]", "message.output_text.logprobs"),
    ({"top_logprobs": 2}, "top_logprobs", "needs include"),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options", "needs stream=true"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", "False"),
    ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
    ({"metadata": {"k": "x" * 513}}, "metadata.k", "at most 512"),
    ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "at most 16"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format", "'json_schema'"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "required"),
    ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text.format.name", "given: 'a b'"),
    ({"text": {"format": {"type": "text", "strict": True}}}, "text.format.strict", "not supported"),
    ({"text": {"verbosity": "low"}}, "text.verbosity", "medium"),
    ({"lookonce": {"cache": "never"}}, "lookonce.cache", "'use' or 'bypass'"),
]


@pytest.mark.parametrize(("fields", "param", "said"), WRONG, ids=[f"{param}: {said}" for _, param, said in WRONG])
async def test_what_is_wrong_is_named_as_the_client_wrote_it(client, fields, param, said):
    error = await refused(client, status=404 if param == "model" else 400, **fields)
    assert error["param"] == param
    assert said in error["message"]


async def test_half_a_character_is_refused(client):
    headers = {"content-type": "application/json"}
    for text in ('"input": "\\ud800"', '"input": "x", "metadata": {"\\udfff": "v"}'):
        reply = await client.post("/v1/responses", content=f'{{"model": "m", {text}}}', headers=headers)
        assert (reply.status_code, "lone surrogate" in reply.text) == (400, True)
    assert text_of(await asked(client, "😀 \u2028")) is not None


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, SCHEMA),
    ],
)
async def test_a_format_becomes_a_schema_for_the_engine_and_is_told(client, bench, monkeypatch, wanted, expected):
    request = ResponseRequest(model="m", input="x", text={"format": wanted})
    schema = request.text.format.schema_text
    assert (schema and json.loads(schema)) == expected
    samplings = []
    full = bench.engine.full

    def noted(conversation, image, sampling, tenant):
        samplings.append(sampling)
        return full(conversation, image, sampling, tenant)

    monkeypatch.setattr(bench.engine, "full", noted)
    reply = await post(client, text={"format": wanted})
    if reply.status_code == 200:
        RESPONSE.validate_json(reply.text, strict=True)
        assert wanted.items() <= reply.json()["text"]["format"].items()
        assert (await client.get(f"/v1/responses/{reply.json()['id']}")).json() == reply.json()
    assert samplings[0].json_schema == schema


async def test_a_top_p_of_0_is_the_likeliest_answer_as_in_a_chat(client):
    asking = {"temperature": 2, "top_p": 0}
    greedy = text_of(await asked(client))
    response = await asked(client, **asking)
    assert (text_of(response), response["top_p"]) == (greedy, 0.0)
    question = {"model": "m", "messages": [{"role": "user", "content": "What is there?"}], "max_tokens": 12}
    reply = await client.post("/v1/chat/completions", json=question | asking)
    assert reply.json()["choices"][0]["message"]["content"] == greedy
