"""Whatever a client sends, the answer is a completion, or an error in OpenAI's shape that names a field."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookonce_server.http.schemas.chat import ChatRequest

from ....support.app_requests import URL, body, image, send, text, user

pytestmark = pytest.mark.anyio

EXAMPLES = 150
FUZZED = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FIELDS = sorted(ChatRequest.model_fields)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=12)
    | st.sampled_from(["m", "text", "image_url", "user", "auto", "none", URL, "lookonce:" + "0" * 64, "<image>"])
)
NAMES = st.sampled_from([*FIELDS, "type", "a"])
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FIELDS, "type", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)
PARTS = JSON | st.sampled_from([text("a"), text(""), image(), image("lookonce:x"), {"type": "refusal", "refusal": "b"}])
IDS = st.sampled_from(["a", "b", "c"])
CALLS = st.lists(
    st.fixed_dictionaries(
        {"id": IDS},
        optional={
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": st.sampled_from(["f", "g", 3]), "arguments": SCALARS}),
        },
    ),
    max_size=3,
)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("function")},
        optional={
            "function": st.fixed_dictionaries({"name": st.sampled_from(["f", "g", ""])}, optional={"parameters": JSON})
        },
    ),
    max_size=3,
)
CHOICES = JSON | st.sampled_from(["required", "auto", {"type": "function", "function": {"name": "f"}}])
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", 3])},
        optional={
            "content": SCALARS | st.lists(PARTS, max_size=3),
            "name": SCALARS,
            "refusal": SCALARS,
            "tool_calls": JSON | CALLS,
            "tool_call_id": SCALARS | IDS,
        },
    ),
    max_size=4,
)


async def assert_answered(app, content: bytes, known: set[str] | None = None) -> None:
    reply = await send(app, content)
    assert reply.status_code in (200, 400, 404), (content, reply.text)
    if reply.status_code == 200:
        return
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, content
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert len(reply.content) < 2000
    if known and error["param"] is not None:
        assert re.split(r"[.\[]", error["param"])[0] in known, (content, error)


def ascii_json(value) -> bytes:
    return json.dumps(value).encode()


@FUZZED
@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
async def test_fields_of_any_value(app, fields):
    await assert_answered(app, ascii_json(body(**fields)), set(FIELDS))


@FUZZED
@given(messages=MESSAGES, stream=st.booleans())
async def test_conversations_of_any_shape(app, messages, stream):
    await assert_answered(app, ascii_json(body(messages=[*messages, user("Hi")], stream=stream)), {"messages"})
    await assert_answered(app, ascii_json(body(messages=messages, stream=stream)), {"messages"})


@settings(FUZZED, max_examples=40)
@given(messages=MESSAGES, tools=TOOLS, choice=CHOICES)
async def test_tools_of_any_shape(app, messages, tools, choice):
    request = body(messages=[*messages, user("Hi")], tools=tools, tool_choice=choice)
    await assert_answered(app, ascii_json(request), {"messages", "tools", "tool_choice"})


@FUZZED
@given(value=JSON)
async def test_bodies_of_any_json(app, value):
    await assert_answered(app, ascii_json(value), {*FIELDS, *(value if isinstance(value, dict) else ())})


@FUZZED
@given(content=st.binary(max_size=64), at=st.integers(0, 80))
async def test_bodies_of_any_bytes(app, content, at):
    whole = ascii_json(body())
    await assert_answered(app, whole[:at] + content + whole[at:])
    await assert_answered(app, content)


@pytest.mark.parametrize("nested", ["[" * 100_000, '{"a":' * 100_000, '{"messages":' + "[" * 900 + "]" * 900 + "}"])
async def test_bodies_of_any_depth(app, nested):
    await assert_answered(app, nested.encode(), {"messages", "model"})


@pytest.mark.parametrize("number", ["1" * 5000, "-1" + "0" * 400, "1e999", "NaN", "-Infinity"])
@pytest.mark.parametrize("field", ["n", "seed", "temperature", "max_tokens", "top_p", "logit_bias", "user"])
async def test_numbers_of_any_size(app, field, number):
    whole = json.dumps(body(**{field: "?"})).replace('"?"', number)
    await assert_answered(app, whole.encode(), set(FIELDS))
