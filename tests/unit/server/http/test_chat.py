"""Chat requests that go wrong half-way: nothing runs on, and each request is counted once."""

import asyncio
import json
import logging

import httpx2
import pytest
from starlette.requests import Request

from lookonce_server.http.routes.chat import chat
from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.sessions.answer_streams import AnswerStreams

from ....support.samples import ANSWER_TOKENS, TENANT, tasks_of

pytestmark = pytest.mark.anyio
# Without its end token, or the model ends its answers before anything can happen to them.
ENDLESS = {"model": "m", "messages": [{"role": "user", "content": "xyzzy"}], "n": 3, "logit_bias": {"2": -100}}


async def post(app, **fields) -> httpx2.Response:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with asyncio.timeout(60), httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post("/v1/chat/completions", json=ENDLESS | fields)


async def assert_stopped(engine, steps: list[int]) -> None:
    assert not tasks_of(AnswerStreams)
    async with asyncio.timeout(30):
        while engine.queue_depth:  # noqa: ASYNC110 - it tells no event
            await asyncio.sleep(0.001)
    assert len(steps) < ANSWER_TOKENS  # of three times as many


async def test_endless_answers_end_with_their_tokens(app, steps):
    reply = await post(app, max_tokens=20)
    assert [choice["finish_reason"] for choice in reply.json()["choices"]] == ["length"] * 3
    assert len(steps) == 3 * 19


async def test_one_answers_failure_fails_the_request_and_stops_the_others(app, bench, steps, failing):
    reply = await post(app)
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "engine_error")
    await assert_stopped(bench.engine, steps)
    assert bench.counted("requests_total", cache="none", status="500") == 1
    assert bench.counted("generated_tokens_total") == 0


async def test_one_answers_failure_ends_the_stream_and_stops_the_others(app, bench, steps, failing, caplog):
    caplog.set_level(logging.INFO, "lookonce_server")
    reply = await post(app, stream=True)
    assert reply.status_code == 200
    *events, last = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line]
    assert {choice["index"] for event in events for choice in event["choices"]} == {0, 1, 2}
    assert last["error"]["code"] == "engine_error"
    assert "a secret" not in reply.text
    (line,) = [record.facts for record in caplog.records if record.getMessage() == "request"]
    assert (line.status, line.error) == (500, "engine_error")
    await assert_stopped(bench.engine, steps)
    assert bench.counted("requests_total", cache="none", status="500") == 1


async def test_a_fault_of_the_api_itself_ends_the_stream_in_the_same_shape(app, bench, steps, monkeypatch, caplog):
    def broken(token: int) -> str:
        raise RuntimeError("a secret")

    monkeypatch.setattr(bench.engine, "token_text", broken)
    reply = await post(app, stream=True, logprobs=True)
    last = reply.text.split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "internal_error"
    assert "a secret" in caplog.text
    assert "a secret" not in reply.text
    await assert_stopped(bench.engine, steps)


async def test_a_client_gone_before_its_stream_begins_stops_every_answer(app, bench, steps):
    async def nothing_more() -> dict:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def gone(message) -> None:
        raise ConnectionResetError("gone")

    scope = {"type": "http", "app": app, "method": "POST", "path": "/", "headers": [], "state": {"tenant": TENANT}}
    response = await chat(ChatRequest(**ENDLESS, stream=True), Request(scope, nothing_more), TENANT)
    with pytest.raises(ConnectionResetError, match="gone"):
        await response(scope, nothing_more, gone)
    await assert_stopped(bench.engine, steps)
    assert bench.counted("requests_total", cache="none", status="499") == 1


async def test_too_many_answers_for_the_queue_are_refused_whole(app, bench, steps, monkeypatch):
    monkeypatch.setattr(bench.engine._scheduler.admission, "max_queue", 2)
    reply = await post(app)
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "overloaded")
    await assert_stopped(bench.engine, steps)


async def test_the_metrics_count_a_request_once_and_the_work_of_all_its_answers(app, bench):
    for stream in (False, True):
        await post(app, max_tokens=5, stream=stream)
    usage = (await post(app, max_tokens=5, n=1)).json()["usage"]
    assert bench.counted("requests_total", cache="none", status="200") == 3
    assert bench.counted("request_duration_seconds_count", cache="none") == 3
    assert bench.counted("time_to_first_token_seconds_count", cache="none") == 3
    assert bench.counted("generation_tokens_per_second_count") == 7
    assert bench.counted("generated_tokens_total") == 7 * 5
    assert bench.counted("prompt_tokens_processed_total") == 7 * usage["prompt_tokens"]
