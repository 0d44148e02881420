"""One switch says where an answer comes from; its older names, and OpenAI's ttl, go on working."""

import pytest

from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.settings import load_settings

from ....support.app_requests import OTHER_URL, URL, body, image, send, user
from ....support.responses_requests import about, asked

pytestmark = pytest.mark.anyio


def options_of(**fields):
    return ChatRequest(**body(**fields)).context_options()


def meaning(**lookonce) -> tuple[str | None, bool]:
    options = options_of(lookonce=lookonce)
    return options.on_miss, options.bypass


async def told(client, url: str = URL, **options) -> dict:
    request = body(messages=[user(image(url), "What is there?")], lookonce=options)
    reply = await client.post("/v1/chat/completions", json=request)
    assert reply.status_code == 200, reply.text
    return reply.json()["lookonce"]


def test_each_mode_is_what_its_older_names_say():
    for mode, older in (
        ("auto", {"on_miss": "full"}),
        ("auto", {"on_miss": "full", "cache": "use"}),
        ("describe_first", {"on_miss": "compress"}),
    ):
        assert meaning(mode=mode) == meaning(**older)
    assert meaning(mode="full_image") == meaning(cache="bypass") == (None, True)
    both = options_of(lookonce={"mode": "describe_first", "fallback": True})
    assert (both.on_miss, both.fallback) == ("compress", True)


async def test_a_mode_says_where_the_answer_comes_from(client):
    assert (await told(client, mode="full_image"))["cache"] == "bypass"
    first = await told(client, mode="describe_first")
    assert (first["cache"], first["context_tokens"] > 0) == ("miss", True)
    assert (await told(client, mode="auto"))["cache"] == "hit"
    new = await told(client, OTHER_URL, mode="auto")
    assert (new["cache"], new["context_tokens"]) == ("miss", 0)


async def test_a_mode_beside_an_older_name_is_refused(app):
    for older in ({"on_miss": "full"}, {"cache": "use"}):
        error = (await send(app, body(lookonce={"mode": "auto", **older}))).json()["error"]
        (name,) = older
        assert (error["param"], "mode says it already" in error["message"]) == (f"lookonce.{name}", True)
    known = body(messages=[user(image(f"lookonce:{'0' * 64}"), "Hi")], lookonce={"mode": "full_image"})
    assert (await send(app, known)).json()["error"]["param"] == "lookonce.mode"
    error = (await send(app, body(lookonce={"mode": "best"}))).json()["error"]
    assert error["param"] == "lookonce.mode"


def test_the_servers_own_mode_and_its_older_name():
    for arguments, expected in (
        ([], "full"),
        (["--mode", "auto"], "full"),
        (["--mode", "describe_first"], "compress"),
        (["--on-miss", "compress"], "compress"),
        (["--mode", "describe_first", "--on-miss", "compress"], "compress"),
    ):
        assert load_settings(arguments).on_new_image == expected
    with pytest.raises(Exception, match="says otherwise"):
        load_settings(["--mode", "auto", "--on-miss", "compress"])


async def test_openais_ttl_is_the_contexts(client, app):
    await client.post("/v1/contexts", json={"image_url": URL})
    question = [user(image(), "Hi")]
    for fields, seconds in (
        ({"prompt_cache_options": {"ttl": "30m"}}, 1800),
        ({"prompt_cache_options": {"ttl": "12h", "mode": "implicit"}}, 12 * 3600),
        ({"prompt_cache_retention": "24h"}, 24 * 3600),
        ({"prompt_cache_options": {"ttl": "30m"}, "lookonce": {"ttl": 60}}, 60),
        ({"prompt_cache_retention": "in_memory"}, None),  # the store's own, which is for ever here
    ):
        reply = await send(app, body(messages=question, **fields))
        assert reply.status_code == 200, reply.text
        (context,) = (await client.get("/v1/contexts")).json()["data"]
        left = context["expires_at"] and context["expires_at"] - reply.json()["created"]
        assert left == seconds or abs(left - seconds) <= 5, fields
    response = await asked(client, about(URL), prompt_cache_options={"ttl": "30m"})
    (context,) = (await client.get("/v1/contexts")).json()["data"]
    assert abs(context["expires_at"] - response["created_at"] - 1800) <= 5
    error = (await send(app, body(messages=question, prompt_cache_options={"ttl": "8d"}))).json()["error"]
    assert (error["param"], "1 to 604800 seconds" in error["message"]) == ("prompt_cache_options.ttl", True)


async def test_a_description_is_read_by_itself(client):
    made = (await client.post("/v1/contexts", json={"image_url": URL})).json()
    told = (await client.get(f"/v1/contexts/{made['id']}/description")).json()
    assert told == {"object": "context.description"} | {
        name: made[name] for name in ("id", "description", "created_at", "expires_at")
    }
    assert (await client.get(f"/v1/contexts/{'0' * 64}/description")).json()["error"]["code"] == "context_not_found"
