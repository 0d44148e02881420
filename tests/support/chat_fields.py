"""OpenAI's fields of a chat request: which values are taken and which refused, and how to see it."""

from typing import Any, NamedTuple

from .app_requests import image, send, text, user

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
    "logit_bias": Values([{}, {"5": -100, "1871": 100}], [{"5": 101}, {"a": 1}, {"-1": 1}, {"01": 1}, {"1872": 1}, []]),
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
    "prompt_cache_options": Values(
        [{}, {"mode": "implicit"}, {"ttl": "30m"}, {"ttl": "12h"}, {"ttl": "7d"}],
        ["30m", {"mode": "explicit"}, {"ttl": "8d"}, {"ttl": "0s"}, {"ttl": 1800}, {"ttl": "1y"}],
    ),
    "prompt_cache_retention": Values(["in_memory", "24h"], ["1h", 24]),
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
        "tool_calls": Values([None, []], [[{}], [CALL | {"type": "custom"}], [CALL | {"surprise": 1}], {}]),
    },
}  # fmt: skip
PARTS = {
    "text": {"text": Values(["", "a"], [None, 3]), "prompt_cache_breakpoint": Values([None], [BREAKPOINT])},
    "image_url": {"image_url": Values([], [None, "url"]), "prompt_cache_breakpoint": Values([None], [BREAKPOINT])},
    "refusal": {"refusal": Values(["no"], [None])},
    "file": {"file": Values([], [None, "file-1"]), "prompt_cache_breakpoint": Values([None], [BREAKPOINT])},
}
REFUSED_ROLES = {"function"}
REFUSED_PARTS = {"input_audio"}


def examples(table: dict[str, Values], which: str) -> list[tuple[str, Any]]:
    """Return each field with each of its values that are "taken" or "refused"."""
    return [(field, value) for field, values in table.items() for value in getattr(values, which)]


async def assert_taken(app, request: dict[str, Any]) -> None:
    """Send a request, which the app must answer."""
    reply = await send(app, request)
    assert reply.status_code == 200, (request, reply.text)


async def assert_refused(app, request: dict[str, Any], field: str) -> None:
    """Send a request, which the app must refuse by the field's name."""
    reply = await send(app, request)
    assert reply.status_code in (400, 404), (request, reply.text)
    error = reply.json()["error"]
    assert reply.status_code == (404 if error["code"] == "model_not_found" else 400), (request, error)
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(field), (field, error)
    assert error["param"] in error["message"] or error["code"] or "The JSON Schema" in error["message"], error
