"""Errors to HTTP: one table, OpenAI's shape, and nothing of what is not the client's business."""

import json

import httpx2
import pytest
from fastapi import APIRouter, FastAPI

from lookonce_cache import StoreUnavailableError
from lookonce_server.errors import (
    ContextNotFoundError,
    ContextNotKeptError,
    EngineError,
    InvalidImageError,
    InvalidRequestError,
    ModelNotFoundError,
    ModelRefusedError,
    OverloadedError,
    PromptTooLongError,
    ServerError,
)
from lookonce_server.http import errors
from lookonce_server.http.bodies.json_body import JsonRoute
from lookonce_server.http.middleware.request_log import RequestLogMiddleware
from lookonce_server.http.recent import RecentQuestions
from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.metrics import Metrics

pytestmark = pytest.mark.anyio

MAPPED = [
    (InvalidRequestError("why", param="p"), 400, "invalid_request_error", "p", None),
    (InvalidRequestError("why", code="special"), 400, "invalid_request_error", None, "special"),
    (InvalidImageError("why", param="p"), 400, "invalid_request_error", "p", "invalid_image"),
    (PromptTooLongError("why", param="p"), 400, "invalid_request_error", "p", "context_length_exceeded"),
    (ModelNotFoundError("why", param="model"), 404, "invalid_request_error", "model", "model_not_found"),
    (ContextNotFoundError("why"), 404, "invalid_request_error", None, "context_not_found"),
    (OverloadedError("why"), 429, "rate_limit_error", None, "overloaded"),
    (ContextNotKeptError("why"), 503, "server_error", None, "context_not_kept"),
    (StoreUnavailableError("Redis at 10.0.0.1"), 503, "server_error", None, "store_unavailable"),
    (EngineError("why"), 500, "server_error", None, "engine_error"),
    (ModelRefusedError("why"), 500, "server_error", None, None),
    (ServerError("why"), 500, "server_error", None, None),
]


@pytest.fixture
def call():
    """Send a request to an app whose one route takes a chat and raises an error."""

    async def send(error: Exception | None = None, **options) -> httpx2.Response:
        app = FastAPI()
        errors.install(app)
        app.add_middleware(RequestLogMiddleware, metrics=Metrics(), recent=RecentQuestions())

        router = APIRouter(route_class=JsonRoute)

        @router.post("/v1/chat/completions")
        async def chat(body: ChatRequest, limit: int = 1) -> None:
            if error:
                raise error

        app.include_router(router)

        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/v1/chat/completions", **options)

    return send


def body(**fields) -> dict:
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields


@pytest.mark.parametrize(("error", "status", "kind", "param", "code"), MAPPED, ids=lambda v: type(v).__name__)
async def test_each_error_has_its_status_and_shape(call, error, status, kind, param, code):
    reply = await call(error, json=body())
    assert reply.status_code == status == errors.status_of(error)
    found = reply.json()["error"]
    message = found.pop("message")
    assert ("why" in message) != isinstance(error, StoreUnavailableError)
    assert "10.0.0.1" not in message
    assert found == {"type": kind, "param": param, "code": code}
    assert reply.headers.get("retry-after") == ("1" if status in (429, 503) else None)


async def test_an_unknown_error_is_logged_and_tells_nothing(call, caplog):
    reply = await call(RuntimeError("a secret"), json=body())
    assert reply.status_code == 500
    assert reply.json()["error"] == {
        "message": "The server failed.",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    assert "a secret" not in reply.text
    assert "a secret" in caplog.text


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "at least 1 item"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "given: 3"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages[0].content[0]", "must be 'text'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "required"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 1}}]}]},
            "messages[0].content[0].image_url.url",
            "valid string",
        ),
        ({"stop": ["a"] * 5}, "stop", "at most 4 items"),
        ({"lookonce": {"on_miss": "x"}}, "lookonce.on_miss", "'full' or 'compress'"),
        ({"stop": ["a", ""]}, "stop[1]", "at least 1 character"),
        ({"stop": 3}, "stop", "given: 3"),
        ({"functions": [{}]}, "functions", "send tools, tool_choice and tool_calls"),
        ({"audio": {}}, "audio", "leave it out (given: {})"),
        ({"store": 0}, "store", "given: 0"),
        ({"surprise": 0}, "surprise", "not supported by this server"),
        ({"\ud800": 1}, None, "The body: the text has a lone surrogate"),
        ({"user": "\ud800"}, "user", "given: '\\ud800'"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "a lone surrogate"),
        ({"model": "\ud800"}, "model", "given: '\\ud800'"),
        ({"model": None}, "model", "valid string"),
        ({"n": "1"}, "n", "valid integer"),
        ({"n": True}, "n", "valid integer"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a", "should match pattern"),
        ({"logit_bias": {"7": 101}}, "logit_bias.7", "less than or equal to 100"),
        ({"metadata": {"a" * 65: "b"}}, "metadata." + "a" * 65, "at most 64 characters"),
        ({"messages": [{"role": "user", "content": {"str": 1, "text": 2}}]}, "messages[0].content", "given: {'str'"),
        ({"response_format": {"type": "xml"}}, "response_format", "'json_object' or 'json_schema'"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
            "required",
        ),
    ],
)  # fmt: skip
async def test_a_wrong_field_is_named_as_the_client_wrote_it(call, fields, param, said):
    content = json.dumps(body(**fields))  # in ASCII, which may stand for what UTF-8 cannot
    reply = await call(content=content, headers={"content-type": "application/json"})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert said in error["message"]


async def test_a_wrong_query_parameter_is_named(call):
    assert (await call(json=body(), params={"limit": "x"})).json()["error"]["param"] == "limit"


@pytest.mark.parametrize(
    "fields",
    [{"temperature": "x" * 100_000}, {"x" * 100_000: 1}, {"response_format": {"type": "x" * 100_000}}],
    ids=["value", "name", "tag"],
)
async def test_a_long_value_is_shown_in_part(call, fields):
    reply = await call(json=body(**fields))
    assert len(reply.text) < 1000


async def test_a_deep_value_is_shown_in_part(call):
    deep = json.dumps(body(tools=0)).replace("0}", "[" * 90 + "]" * 90 + "}")
    reply = await call(content=deep, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tools[0]")


@pytest.mark.parametrize("content", [b"[]", b"3", b'"text"', b"null", b""])
async def test_a_body_that_is_no_object_is_named_as_a_whole(call, content):
    reply = await call(content=content, headers={"content-type": "application/json"})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, None)
    assert error["message"].startswith("The body")


async def test_a_body_that_is_no_json(call):
    reply = await call(content=b"{", headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith("The body is not valid JSON: ")


async def test_an_unknown_route_has_the_same_shape(call):
    app = FastAPI()
    errors.install(app)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as client:
        reply = await client.get("/nowhere")
    assert (reply.status_code, reply.json()["error"]["message"]) == (404, "GET /nowhere: Not Found.")
