"""/v1/contexts: pages, totals and the facts of a context, through the whole app with contexts in memory."""

import base64
from dataclasses import replace

import httpx2
import pytest

from lookonce_cache import DEFAULT_TENANT, ContextKey, StoreUnavailableError
from lookonce_server.app import running_app
from lookonce_server.settings import Settings

from ....support.samples import png

pytestmark = pytest.mark.anyio
SEEDS = range(91, 96)


@pytest.fixture(scope="module")
async def app():
    settings = Settings(describe_tokens=8, precision="int8", store="memory://?max_bytes=64MiB")
    async with running_app(settings) as app:
        yield app


@pytest.fixture
async def client(app):
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost", timeout=60) as made:
        yield made


@pytest.fixture
async def made(client) -> list[dict]:
    """The contexts that are kept, as they were told when they were made or found, in that order."""
    return [await prepared(client, seed) for seed in SEEDS]


async def prepared(client, seed: int) -> dict:
    url = f"data:image/png;base64,{base64.b64encode(png(seed)).decode()}"
    return (await client.post("/v1/contexts", json={"image_url": url})).raise_for_status().json()


async def page(client, **query) -> dict:
    return (await client.get("/v1/contexts", params=query)).raise_for_status().json()


async def pages(client, limit: int) -> list[dict]:
    found, after = [], None
    while True:
        one = await page(client, limit=limit, **({} if after is None else {"after": after}))
        assert one.keys() == {"object", "data", "has_more", "next"}
        assert (one["object"], one["has_more"]) == ("list", one["next"] is not None)
        assert len(one["data"]) <= limit
        found += one["data"]
        after = one["next"]
        if after is None:
            return found


async def stats(client) -> dict:
    return (await client.get("/v1/contexts/stats")).raise_for_status().json()


async def ask(client, context_id: str) -> httpx2.Response:
    parts = [{"type": "image_url", "image_url": {"url": f"lookonce:{context_id}"}}, {"type": "text", "text": "What?"}]
    body = {"model": "lookonce-scenes", "messages": [{"role": "user", "content": parts}], "max_tokens": 2}
    return await client.post("/v1/chat/completions", json=body)


async def test_before_anything_is_kept(client):
    assert await page(client) == {"object": "list", "data": [], "has_more": False, "next": None}
    assert await stats(client) == {
        "object": "context.stats",
        "contexts": 0,
        "bytes": 0,
        "oldest": None,
        "newest": None,
        "hits": 0,
        "misses": 0,
        "hit_rate": None,
        "tokens_saved": 0,
    }


async def test_a_context_tells_its_facts_the_same_everywhere(client, made):
    one = made[0]
    shown = (await client.get(f"/v1/contexts/{one['id']}")).json()
    (listed,) = [other for other in (await page(client))["data"] if other["id"] == one["id"]]
    for other in (shown, listed):
        assert {**other, "expires_at": 0} == {**one, "expires_at": 0}
    assert (one["selection"], one["retention"]) == ("coverage", 0.05)
    assert (one["precision"], one["image_tokens"], one["kept_tokens"]) == ("int8", 196, 10)


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 6, 1000])
async def test_pages_have_every_context_once_the_newest_first(client, made, limit):
    assert [one["id"] for one in await pages(client, limit)] == [one["id"] for one in reversed(made)]


async def test_use_between_pages_does_not_change_them(client, made):
    first = await page(client, limit=2)
    for one in made:
        assert (await ask(client, one["id"])).json()["lookonce"]["cache"] == "hit"
    second = await page(client, limit=3, after=first["next"])
    ids = [one["id"] for one in first["data"] + second["data"]]
    assert ids == [one["id"] for one in reversed(made)]
    assert second["next"] is None


async def test_a_page_goes_on_after_a_context_that_was_deleted(client, made):
    first = await page(client, limit=1)
    assert (await client.delete(f"/v1/contexts/{first['data'][0]['id']}")).json()["deleted"] is True
    second = await page(client, limit=1000, after=first["next"])
    assert [one["id"] for one in second["data"]] == [one["id"] for one in reversed(made)][1:]


@pytest.mark.parametrize("after", ["", "garbage", "0" * 64, "\U0001f6b2"])
async def test_a_cursor_that_was_never_given_out_starts_anew(client, made, after):
    assert len((await page(client, after=after))["data"]) == len(made)


@pytest.mark.parametrize(
    ("query", "param"),
    [({"limit": 0}, "limit"), ({"limit": 1001}, "limit"), ({"limit": "x"}, "limit"), ({"after": "x" * 201}, "after")],
)
async def test_wrong_queries_are_named(client, query, param):
    reply = await client.get("/v1/contexts", params=query)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_totals(client, made):
    before = await stats(client)
    assert (before["contexts"], before["bytes"]) == (len(made), sum(one["bytes"] for one in made))
    assert min(one["created_at"] for one in made) <= before["oldest"] + 1 <= before["newest"] + 1
    assert (await ask(client, made[0]["id"])).status_code == 200
    assert (await ask(client, "0" * 64)).status_code == 404
    after = await stats(client)
    assert (after["hits"], after["misses"]) == (before["hits"] + 1, before["misses"] + 1)
    assert after["hit_rate"] == after["hits"] / (after["hits"] + after["misses"])


async def test_contexts_of_another_model_are_not_shown(client, app, made):
    store = app.state.parts.store
    context = (await store.get(ContextKey(DEFAULT_TENANT, made[0]["id"]))).context
    other = replace(context, identity=replace(context.identity, model_fingerprint="another model"))
    await store.put(other)
    assert [one["id"] for one in await pages(client, 1)] == [one["id"] for one in reversed(made)]
    for reply in (await client.get(f"/v1/contexts/{other.id}"), await ask(client, other.id)):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "context_not_found")
    assert (await stats(client))["contexts"] == len(made) + 1
    assert await store.delete(other.key)


@pytest.mark.parametrize("context_id", ["x", "0" * 63, "A" * 64, "%2e%2e", "stats2"])
async def test_an_id_that_is_none_is_not_found(client, context_id):
    for method in ("GET", "DELETE"):
        reply = await client.request(method, f"/v1/contexts/{context_id}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "context_not_found")


async def test_while_the_store_is_away_only_what_has_the_pixels_is_answered(client, app, made, monkeypatch):
    async def away(*_, **__):
        raise StoreUnavailableError("Redis at somewhere: ConnectionError: refused")

    store = app.state.parts.store
    for name in ("get", "info", "list", "stats", "delete", "state", "lease", "put"):
        monkeypatch.setattr(store, name, away)
    one = f"/v1/contexts/{made[0]['id']}"
    replies = [await client.get(path) for path in ("/v1/contexts", "/v1/contexts/stats", one)]
    replies += [await client.delete(one), await ask(client, made[0]["id"])]
    for reply in replies:
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert reply.json()["error"]["code"] == "store_unavailable"
        assert "somewhere" not in reply.text
    url = f"data:image/png;base64,{base64.b64encode(png(SEEDS[0])).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    body = {"model": "lookonce-scenes", "messages": [{"role": "user", "content": parts}], "max_tokens": 2}
    reply = await client.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["lookonce"]["cache"]) == (200, "miss")
