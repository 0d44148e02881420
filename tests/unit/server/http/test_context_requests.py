"""POST /v1/contexts as JSON and as a form: one meaning, what is wrong refused by name, the events of a making."""

import asyncio
import base64
import json
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookonce_server.app import running_app
from lookonce_server.http.bodies.image_request import FORM
from lookonce_server.settings import Settings

from ....support.samples import png

pytestmark = pytest.mark.anyio
MAX_BYTES = 100_000
URL = f"data:image/png;base64,{base64.b64encode(png(100)).decode()}"


@pytest.fixture(scope="module")
async def app():
    settings = Settings(describe_tokens=24, max_image_bytes=MAX_BYTES, max_queue=4)
    async with running_app(settings) as app:
        yield app


@pytest.fixture
async def client(app):
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost", timeout=60) as made:
        yield made


async def send(client, form: bool, image: bytes = png(100), **fields: Any) -> httpx2.Response:
    """The same request, in either way."""
    if form:
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
        return await client.post("/v1/contexts", files={"image": ("a.png", image, "image/png")}, data=texts)
    url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return await client.post("/v1/contexts", json={"image_url": url, **fields})


def error_of(reply: httpx2.Response) -> dict[str, Any]:
    assert reply.status_code == 400, reply.text
    return reply.json()["error"]


def events_of(reply: httpx2.Response) -> list[Any]:
    """What a stream says, and whether it was ended."""
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


# --- both forms -------------------------------------------------------------------------------------------------------


async def test_a_form_and_json_mean_the_same(client):
    wishes = {"retention": 0.1, "ttl": 100, "describe_prompt": "What is there?"}
    made = [await send(client, form, **fields) for fields in ({}, wishes) for form in (False, True)]
    usual, same, wished, alike = (reply.raise_for_status().json() for reply in made)
    assert (usual["id"], wished["id"]) == (same["id"], alike["id"])
    assert usual["id"] != wished["id"]
    assert (usual["retention"], wished["retention"]) == (0.05, 0.1)
    for one in (wished, alike):
        assert 98 <= one["expires_at"] - one["created_at"] <= 110
    assert wished["kept_tokens"] == 20


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"retention": 0}, "retention", "greater than 0"),
        ({"retention": 1.5}, "retention", "less than or equal to 1"),
        ({"retention": 0.5}, "retention", "at most 0.25"),
        ({"retention": "much"}, "retention", "valid number"),
        ({"ttl": -1}, "ttl", "greater than 0"),
        ({"ttl": 1e12}, "ttl", "604800 seconds"),
        ({"describe_prompt": ""}, "describe_prompt", "at least 1 character"),
        ({"describe_prompt": "x" * 1001}, "describe_prompt", "1001 characters"),
        ({"stream": "perhaps"}, "stream", "valid boolean"),
        ({"on_miss": "full"}, "on_miss", "not supported"),
        ({"user": "me"}, "user", "not supported"),
    ],
    ids=str,
)
async def test_what_is_wrong_is_refused_by_its_name(client, form, fields, param, message):
    error = error_of(await send(client, form, **fields))
    assert error["param"] == param
    assert message in error["message"]


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
@pytest.mark.parametrize("image", [b"", b"x" * (MAX_BYTES + 1), b"no image"], ids=["empty", "large", "garbage"])
async def test_an_image_that_cannot_be_used_is_refused(client, form, image):
    error = error_of(await send(client, form, image))
    assert (error["param"], error["code"]) == ("image" if form else "image_url", "invalid_image")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "image_url"),
        ([], None),
        ("text", None),
        ({"image_url": 5}, "image_url"),
        ({"image_url": URL, "retention": "0.1"}, "retention"),
        ({"image_url": URL, "stream": "true"}, "stream"),
        ({"image_url": f"lookonce:{'a' * 64}"}, "image_url"),
    ],
    ids=str,
)
async def test_json_is_taken_by_its_types(client, body, param):
    error = error_of(await client.post("/v1/contexts", json=body))
    assert (error["param"] or None) == param


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"image_url": NaN'])
async def test_what_is_no_json_is_refused(client, body):
    reply = await client.post("/v1/contexts", content=body, headers={"content-type": "application/json"})
    assert error_of(reply)["message"].startswith("The body is ")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/mixed"])
async def test_other_bodies_are_refused(client, kind):
    headers = {} if kind is None else {"content-type": kind}
    reply = await client.post("/v1/contexts", content=b"image=x", headers=headers)
    assert (reply.status_code, reply.json()["error"]["param"]) == (415, "content-type")


async def test_openapi_tells_of_both_ways_and_of_what_comes_back(client):
    schema = (await client.get("/openapi.json")).json()
    create = schema["paths"]["/v1/contexts"]["post"]
    json_, form = (create["requestBody"]["content"][kind]["schema"] for kind in ("application/json", FORM))
    wishes = {"retention", "ttl", "describe_prompt", "stream"}
    assert set(json_["properties"]) == wishes | {"image_url", "file_id", "video_url", "fps", "max_frames"}
    assert [way["required"] for way in json_["oneOf"]] == [["image_url"], ["file_id"], ["video_url"]]
    assert (set(form["properties"]), form["required"]) == (wishes | {"image"}, ["image"])
    assert (json_["additionalProperties"], form["additionalProperties"]) == ({"type": "null"}, False)
    assert create["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}
    for method in ("get", "post"):
        drawing = schema["paths"]["/v1/contexts/{context_id}/heatmap.png"][method]["responses"]
        assert drawing["200"]["content"].keys() == {"image/png"}
        assert drawing["400"]["content"].keys() == {"application/json"}


# --- forms ------------------------------------------------------------------------------------------------------------


def part(name: str, content: bytes, *, filename: str | None = None) -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--edge\r\ncontent-disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"


async def post_form(client, *parts: bytes, end: bytes = b"--edge--\r\n", boundary: str = "; boundary=edge"):
    headers = {"content-type": f"multipart/form-data{boundary}"}
    return await client.post("/v1/contexts", content=b"".join(parts) + end, headers=headers)


FILE = part("image", png(100), filename="a.png")


@pytest.mark.parametrize(
    ("parts", "param", "message"),
    [
        ([], "image", "no such file"),
        ([part("image", b"text")], "image", "expected a file"),
        ([FILE, part("image", b"text")], "image", "more than once"),
        ([FILE, FILE], None, "Too many files"),
        ([part("picture", png(100), filename="a.png")], "picture", "expected text"),
        ([FILE, part("ttl", b"5"), part("ttl", b"5")], "ttl", "more than once"),
        ([FILE, *(part(f"x{i}", b"") for i in range(17))], None, "Too many fields"),
        ([FILE, part("describe_prompt", b"x" * 70_000)], None, "maximum size"),
    ],
    ids=["nothing", "text", "file and text", "two files", "another name", "twice", "many", "long"],
)
async def test_forms_are_as_they_should_be(client, parts, param, message):
    error = error_of(await post_form(client, *parts))
    assert error["param"] == param
    assert message in error["message"]


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=other", "; charset=klingon; boundary=edge"])
async def test_boundaries_that_are_none_are_no_failure(client, boundary):
    reply = await post_form(client, FILE, boundary=boundary)
    assert reply.status_code == (200 if "klingon" in boundary else 400)


@pytest.mark.parametrize("name", [b"describe_prompt", b"+2AA-"])
async def test_half_a_character_is_refused_in_forms_too(client, name):
    """UTF-7 can spell one, as JSON's escapes can."""
    text = b"--edge\r\ncontent-disposition: form-data; name=%b\r\n\r\n+2AA-\r\n" % name
    error = error_of(await post_form(client, FILE, text, boundary="; charset=utf-7; boundary=edge"))
    assert (error["param"], "lone surrogate" in error["message"]) == (
        None if name[:1] == b"+" else "describe_prompt",
        True,
    )


# Starlette leaves the file of a part that never ends, which is in memory, to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=40) | st.sampled_from([FILE, b"--edge\r\n", b"\r\n\r\n", b"--edge--"]), max_size=6))
def test_no_form_makes_the_server_fail(fuzzing, parts):
    assert fuzzing(parts).status_code in (200, 400)


@pytest.fixture
def fuzzing(app):
    """Sends forms from a test that is no coroutine, which hypothesis cannot call."""

    async def send(parts: list[bytes]) -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as client:
            return await post_form(client, *parts, end=b"")

    return lambda parts: asyncio.run(send(parts))


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
async def test_the_making_of_a_context_is_told(client, form):
    image = png(101 + form)
    queued, describing, *deltas, completed, done = events_of(await send(client, form, image, stream=True))
    assert (queued, describing, done) == ({"type": "context.queued"}, {"type": "context.describing"}, "[DONE]")
    assert {one["type"] for one in deltas} == {"context.description.delta"}
    assert "".join(one["delta"] for one in deltas) == completed["context"]["description"]
    assert (completed["type"], completed["created"]) == ("context.completed", True)
    shown = (await client.get(f"/v1/contexts/{completed['context']['id']}")).json()
    assert shown == completed["context"]
    queued, completed, done = events_of(await send(client, form, image, stream=True))
    assert (completed["created"], completed["context"]["id"]) == (False, shown["id"])
    plain = (await send(client, form, image)).json()
    assert plain.keys() == shown.keys()


async def test_an_error_after_the_first_event_is_an_event(client):
    queued, error = events_of(await send(client, True, b"no image", stream=True))
    assert queued == {"type": "context.queued"}
    assert (error["type"], error["error"]["param"], error["error"]["code"]) == ("error", "image", "invalid_image")


async def test_what_is_wrong_with_the_request_is_no_event(client):
    assert error_of(await send(client, True, png(100), stream=True, retention=0.9))["param"] == "retention"


# --- the chat route ---------------------------------------------------------------------------------------------------


async def ask(client, image: str = URL, **wishes: Any) -> httpx2.Response:
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": image}}]
    body = {"model": "lookonce-scenes", "messages": [{"role": "user", "content": parts}], "max_tokens": 4}
    return await client.post("/v1/chat/completions", json={**body, "lookonce": wishes})


async def test_a_question_finds_the_context_that_was_prepared_with_its_wishes(client):
    wishes = {"retention": 0.15, "describe_prompt": "What is there?"}
    prepared = (await send(client, False, **wishes)).json()
    found = (await ask(client, **wishes, ttl=100)).json()["lookonce"]
    assert (found["cache"], found["context_id"]) == ("hit", prepared["id"])
    shown = (await client.get(f"/v1/contexts/{prepared['id']}")).json()
    assert shown["expires_at"] < prepared["expires_at"]
    assert (await ask(client, on_miss="compress")).json()["lookonce"]["context_id"] != prepared["id"]


async def test_bypass_is_told(client):
    reply = await ask(client, cache="bypass")
    assert reply.headers["x-lookonce-cache"] == "bypass"
    assert reply.json()["lookonce"] == {
        "cache": "bypass",
        "tier": None,
        "context_id": None,
        "context_tokens": 0,
        "image_tokens": 0,
        "tokens_saved": 0,
        "images": [{"context_id": None, "cache": "bypass", "tier": None, "context_tokens": 0, "image_tokens": 0}],
    }


@pytest.mark.parametrize(
    "wishes",
    [
        {"retention": 0.9},
        {"retention": 2},
        {"ttl": 1e9},
        {"ttl": 0},
        {"describe_prompt": "x" * 1001},
        {"cache": "never"},
        {"on_miss": "wait"},
        {"window": "all"},
    ],
    ids=str,
)
async def test_wishes_that_are_not_met_are_named(client, wishes):
    assert error_of(await ask(client, **wishes))["param"] == f"lookonce.{next(iter(wishes))}"
