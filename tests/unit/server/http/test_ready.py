"""/ready: whether questions are answered, and how it is with the store; with a store that is dead from the start."""

import time
from dataclasses import replace

import httpx2
import pytest

from lookonce_server.app import running_app
from lookonce_server.settings import Settings

pytestmark = pytest.mark.anyio


async def ready(app, **settings) -> httpx2.Response:
    state = app.state.parts
    app.state.parts = replace(state, settings=state.settings.model_copy(update=settings))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as client:
        return await client.get("/ready")


async def test_a_store_that_is_dead_at_the_start_is_told_and_keeps_no_server_from_being_ready(dead_redis, caplog):
    async with running_app(Settings(store=dead_redis.replace("redis://", "redis://:s3cret@"))) as app:
        begun = time.monotonic()
        reply = await ready(app)
        assert (reply.status_code, reply.json()["store_state"]) == (200, "unavailable")
        assert time.monotonic() - begun < 5  # who asks has no patience
        strict = await ready(app, ready_needs_store=True)
        assert strict.status_code == 503
        assert strict.json() == {"status": "not ready", "store": "redis does not answer"}
        while not (told := [r.getMessage() for r in caplog.records if "store does not answer" in r.getMessage()]):
            await ready(app)
    assert len(told) == 1
    assert "Redis at 127.0.0.1:" in told[0]
    assert "s3cret" not in caplog.text
    assert caplog.text.count("is not used until") == 1


async def test_the_metrics_tell_that_a_server_that_ends_is_not_ready():
    async with running_app(Settings()) as app:
        for ending, expected in ((False, "1.0"), (True, "0.0")):
            app.state.parts.lifecycle.ending = ending
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as client:
                page = (await client.get("/metrics")).text
            assert f'lookonce_ready{{model_name="lookonce-scenes"}} {expected}' in page
