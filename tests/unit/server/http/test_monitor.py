"""The monitor's figures: the process's for whoever has a key, and of questions only one's own."""

import httpx2
import pytest

from lookonce_cache import MemoryStore, StoreUnavailableError
from lookonce_server.auth.tenants import TenantDirectory, key_hash, new_key
from lookonce_server.http.middleware.request_log import RequestFacts
from lookonce_server.http.recent import RecentQuestions

from ....support.app_requests import body, image, user

pytestmark = pytest.mark.anyio
CHAT, DATA = "/v1/chat/completions", "/monitor/data.json"
ASKED = "Which one is the zeppelin?"


def client_of(app) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)


def as_(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_figures_are_for_those_who_have_a_key_and_questions_for_their_own_tenant(app_with):
    mine, other = new_key(), new_key()
    app = app_with(access=TenantDirectory({key_hash(mine): "me", key_hash(other): "other"}))
    async with client_of(app) as client:
        assert (await client.get("/monitor")).status_code == 200
        for headers in ({}, as_("wrong")):
            refused = await client.get(DATA, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        question = body(messages=[user(ASKED, image())])
        assert (await client.post(CHAT, json=question, headers=as_(mine))).status_code == 200
        await client.post(CHAT, json=body(model="another"), headers=as_(mine))
        seen, others = [(await client.get(DATA, headers=as_(key))).json() for key in (mine, other)]
    (one,) = seen["recent"]  # the refused one came to no lookup
    assert (one["cache"], one["status"], one["images"], one["saved_tokens"]) == ("miss", 200, 1, 0)
    assert others["recent"] == []
    assert others["contexts"] == {"count": 0, "bytes": 0}
    assert others["totals"] == seen["totals"]
    assert "zeppelin" not in str(seen)
    assert set(one) & {"request_id", "tenant", "route", "trace_id"} == set()


async def test_its_totals_are_those_of_the_metrics(app_with, bench):
    async with client_of(app_with()) as client:
        question = body(messages=[user("What?", image())], lookonce={"on_miss": "compress"})
        answers = [(await client.post(CHAT, json=question)).json() for _ in range(2)]
        data = (await client.get(DATA)).json()
    totals = data["totals"]
    assert (totals["hits"], totals["misses"], totals["questions"], totals["described"]) == (1, 1, 2, 1)
    assert totals["saved_tokens"] == sum(answer["lookonce"]["tokens_saved"] for answer in answers) > 0
    assert totals["hit_answers"] == totals["miss_answers"] == 1
    assert 0 < totals["hit_seconds"] < totals["miss_seconds"]
    stats = await bench.store.stats("default")
    assert data["contexts"] == {"count": stats.contexts, "bytes": stats.bytes}
    assert [one["cache"] for one in data["recent"]] == ["hit", "miss"]
    assert (data["store"], data["model"]) == ("memory", "m")


async def test_a_store_that_is_away_is_no_error(app_with, monkeypatch):
    async def fails(*_):
        raise StoreUnavailableError("away")

    monkeypatch.setattr(MemoryStore, "stats", fails)
    async with client_of(app_with()) as client:
        reply = (await client.get(DATA)).raise_for_status()
    assert reply.json()["contexts"] is None


def test_only_the_latest_questions_are_remembered_of_each_tenant():
    recent = RecentQuestions()
    for i in range(100):
        recent.add(RequestFacts("id", "POST", tenant="busy", cache="hit", status=i))
    recent.add(RequestFacts("id", "POST", tenant="calm", cache="miss", status=200))
    recent.add(RequestFacts("id", "GET", tenant="calm", status=404))
    assert [one["status"] for one in recent.of("busy")] == [*range(99, 59, -1)]
    assert [one["cache"] for one in recent.of("calm")] == ["miss"]
    assert recent.of("nobody") == []
