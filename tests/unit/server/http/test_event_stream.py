"""A stream that has nothing to send for a while says a comment, which proxies hear and clients pass over."""

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import httpx2
import openai
import pytest

from lookonce_server.errors import OverloadedError, PromptTooLongError
from lookonce_server.http.event_stream import COMMENT

from ....support.app_requests import body, image, user

pytestmark = pytest.mark.anyio
ASKED = body(stream=True, max_tokens=4)
SILENCE = 0.01


class Held:
    """The engine, whose answers stop before one of their events until a comment was sent."""

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before = 0
        self.fail: Exception | None = None
        self.heard = asyncio.Event()
        self.ended = asyncio.Event()
        self._full, self._describe = engine.full, engine.describe
        monkeypatch.setattr(engine, "full", self.full)
        monkeypatch.setattr(engine, "describe", self.describe)

    async def full(self, *args: Any) -> Any:
        try:
            async with aclosing(self._full(*args)) as events:
                count = 0
                async for event in events:
                    if count == self.before:
                        await self._comment()
                        if self.fail:
                            raise self.fail
                    yield event
                    count += 1
        finally:
            self.ended.set()

    async def _comment(self) -> None:
        async with asyncio.timeout(30):
            await self.heard.wait()

    async def describe(self, *args: Any) -> Any:
        await self._comment()
        return await self._describe(*args)

    def listening(self, app: Any) -> Callable[..., Any]:
        """The app, whose comments let go what is held."""

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            async def told(message: Any) -> None:
                if message.get("body") == COMMENT:
                    self.heard.set()
                await send(message)

            await app(scope, receive, told)

        return serve


@pytest.fixture
def held(engine, monkeypatch) -> Held:
    return Held(engine, monkeypatch)


@pytest.fixture
async def client(app_with, held):
    transport = httpx2.ASGITransport(held.listening(app_with(stream_silence=SILENCE)), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
        yield client


def without_comments(text: str) -> list[str]:
    return [part for part in text.split("\n\n") if part and part != ": waiting"]


def speaking(client: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="any", http_client=client, max_retries=0)


@pytest.mark.parametrize("before", [0, 1, 2])
async def test_openais_client_gets_the_same_answer_however_long_it_waits(client, held, before):
    """Before anything is known of the answer, before its first token, and between its tokens."""
    asked = {"model": "m", "messages": [user("Find the red object.")], "max_tokens": 6}
    held.heard.set()
    expected = (await client.post("/v1/chat/completions", json=asked)).json()["choices"][0]["message"]["content"]
    held.heard.clear()
    held.before = before
    stream = await speaking(client).chat.completions.create(**asked, stream=True)
    chunks = [chunk async for chunk in stream]
    assert held.heard.is_set()
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[0].lookonce["cache"] == "none"


async def test_a_response_that_has_not_begun_says_what_it_knows_later(client, held):
    reply = await client.post("/v1/chat/completions", json=ASKED | {"messages": [user("Hi", image())]})
    assert reply.text.startswith(": waiting\n\n")
    assert (reply.status_code, "x-lookonce-cache" in reply.headers) == (200, False)
    first, *_, done = without_comments(reply.text)
    assert json.loads(first.removeprefix("data: "))["lookonce"]["cache"] == "miss"
    assert done == "data: [DONE]"


async def test_an_error_that_comes_late_is_an_event(client, held, bench):
    held.fail = OverloadedError("too much")
    reply = await client.post("/v1/chat/completions", json=ASKED)
    (told,) = without_comments(reply.text)
    assert (reply.status_code, json.loads(told.removeprefix("data: "))["error"]["code"]) == (200, "overloaded")
    assert bench.counted("requests_total", cache="none", status="429") == 1
    held.heard.clear()
    with pytest.raises(openai.APIError, match="too much"):
        [chunk async for chunk in await speaking(client).chat.completions.create(**ASKED)]


async def test_an_error_that_comes_in_time_is_a_status(client_with, held):
    held.fail = OverloadedError("too much")
    held.heard.set()
    async with client_with() as client:
        reply = await client.post("/v1/chat/completions", json=ASKED)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")


async def test_responses_wait_alike(client, held):
    asked = {"model": "m", "input": [{"role": "user", "content": "Hi"}], "max_output_tokens": 4, "stream": True}
    events = [event async for event in await speaking(client).responses.create(**asked)]
    assert held.heard.is_set()
    assert events[-1].type in ("response.completed", "response.incomplete")
    held.heard.clear()
    held.fail = PromptTooLongError.beyond(9, "it is long")
    reply = await client.post("/v1/responses", json=asked)
    (told,) = without_comments(reply.text)
    name, data = told.split("\n")
    found = json.loads(data.removeprefix("data: "))
    assert (name, found["type"], found["code"]) == ("event: error", "error", "context_length_exceeded")
    assert found["param"] == found["error"]["param"] == "input"
    held.heard.clear()
    with pytest.raises(openai.APIError, match="maximum context length"):
        [event async for event in await speaking(client).responses.create(**asked)]


async def test_the_making_of_a_context_waits_alike(client, held):
    reply = await client.post("/v1/contexts", json={"image_url": image()["image_url"]["url"], "stream": True})
    assert held.heard.is_set()
    assert ": waiting\n\n" in reply.text
    events = [json.loads(one.removeprefix("data: ")) for one in without_comments(reply.text)[:-1]]
    assert events[-1]["type"] == "context.completed"


async def test_a_client_that_leaves_while_it_waits_frees_the_work(app_with, held):
    """Once its response has started without an answer."""
    app = app_with(stream_silence=SILENCE)
    left = asyncio.Event()
    sent = [{"type": "http.request", "body": json.dumps(ASKED).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if sent:
            return sent.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message.get("body") == COMMENT:
            left.set()

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1"}
    path = "/v1/chat/completions"
    scope |= {"method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
    async with asyncio.timeout(30):
        await app(scope | {"scheme": "http", "root_path": "", "server": ("localhost", 80)}, receive, send)
        await held.ended.wait()
    metrics = app.state.parts.metrics.registry
    assert metrics.get_sample_value("lookonce_requests_total", {"cache": "none", "status": "499"}) == 1


async def test_a_stream_that_is_not_silent_says_no_comment(client_with):
    async with client_with() as client:
        reply = await client.post("/v1/chat/completions", json=ASKED)
    assert ": waiting" not in reply.text
    assert reply.headers["x-lookonce-cache"] == "none"
