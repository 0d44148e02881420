"""What is sent is what OpenAI's own types, and this server's OpenAPI, say."""

import json

import httpx2
import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from lookonce_server.engines import reasoning
from lookonce_server.http.schemas import answers

from ....support.app_requests import body, events_of, image, send, user

pytestmark = pytest.mark.anyio

OPTIONS = [
    {},
    {"n": 2},
    {"logprobs": True, "top_logprobs": 2},
    {"max_tokens": 1},
    {"max_tokens": 40, "stop": "4"},
    {"messages": [user("What is there?", image())]},
]


def assert_shaped(made: dict, openais, ours) -> None:
    """Nothing that OpenAI's type needs is missing or of another type, and nothing is lost on its way through it."""
    told = json.dumps(made)
    assert openais.model_validate_json(told, strict=True).to_dict(mode="json") == made
    assert ours.model_validate_json(told, strict=True).model_dump(exclude_unset=True) == made


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
async def test_an_answer(app, options):
    for _ in range(2):  # of an image: a miss, and a hit
        made = (await send(app, body(logit_bias={"2": -100}, **options))).json()
        assert_shaped(made, ChatCompletion, answers.ChatCompletion)
        assert [choice["finish_reason"] for choice in made["choices"]] == (
            ["stop" if "stop" in options else "length"] * options.get("n", 1)
        )


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize("usage", [True, False])
async def test_a_stream(app, options, usage):
    wanted = {"stream": True, "stream_options": {"include_usage": True}} if usage else {"stream": True}
    reply = await send(app, body(**options, **wanted))
    assert reply.headers["content-type"].startswith("text/event-stream")
    chunks = events_of(reply)
    for chunk in chunks:
        assert_shaped(chunk, ChatCompletionChunk, answers.ChatCompletionChunk)
    assert len({(c["id"], c["created"], c["model"], c["system_fingerprint"]) for c in chunks}) == 1
    *pieces, last = chunks
    if usage:
        assert [c["usage"] for c in pieces] == [None] * len(pieces)
        assert (last["choices"], last["usage"]["prompt_tokens"] > 0) == ([], True)
    else:
        assert not any("usage" in chunk for chunk in chunks)


async def test_a_stream_says_what_the_whole_answer_says(app):
    request = body(messages=[user("What is there?")], logprobs=True, top_logprobs=1, max_tokens=8)
    whole = (await send(app, request)).json()
    chunks = events_of(await send(app, request | {"stream": True, "stream_options": {"include_usage": True}}))
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(c["delta"].get("content") or "" for c in choices) == whole["choices"][0]["message"]["content"]
    told = [entry for c in choices if c["logprobs"] for entry in c["logprobs"]["content"]]
    assert told == whole["choices"][0]["logprobs"]["content"]
    assert chunks[-1]["usage"] == whole["usage"]


async def test_reasoning_is_apart_from_the_answer(app, engine, monkeypatch):
    """The bundled model does not reason: a word that it says ends its thought."""
    request = body(messages=[user("Describe the image.", image())], max_tokens=40, lookonce={"cache": "bypass"})
    plain = (await send(app, request)).json()["choices"][0]["message"]["content"]
    end = plain.split()[3]
    thought, _, answer = plain.partition(end)
    monkeypatch.setattr(reasoning, "END", end)
    monkeypatch.setitem(vars(engine._prompts._template), "reasoning", reasoning.ReasoningFormat(is_opened=True))
    made = (await send(app, request)).json()
    message = made["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (thought.strip(), answer.strip())
    assert_shaped(made, ChatCompletion, answers.ChatCompletion)
    tokens = made["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < tokens < made["usage"]["completion_tokens"]
    chunks = events_of(await send(app, request | {"stream": True}))
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == message["reasoning_content"]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]


async def test_the_fingerprint_is_the_models(app, engine):
    made = (await send(app, body())).json()
    assert made["system_fingerprint"] == f"fp_{engine.facts.fingerprint[:16]}"


async def test_the_models(app):
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as client:
        listed = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/m")).json()
        missing = await client.get("/v1/models/a/b")
    assert listed == {"object": "list", "data": [one]}
    assert_shaped(one, Model, answers.Model)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_openapi_tells_what_is_sent(app):
    told = app.openapi()
    chat = told["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert set(chat["200"]["content"]) == {"application/json", "text/event-stream"}
    assert {"400", "404", "503"} < set(chat)
    for operations in told["paths"].values():
        for operation in operations.values():
            assert "422" not in operation["responses"]
    assert "HTTPValidationError" not in json.dumps(told)
