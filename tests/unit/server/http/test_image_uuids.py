"""A client's uuid of an image brings that image, or nothing: never another one, and never another tenant's."""

import asyncio
from dataclasses import replace

import httpx2
import pytest

from lookonce_server.app import _app
from lookonce_server.auth.tenants import TenantDirectory, key_hash

from ....support.app_requests import OTHER_URL, URL, body, image, user

pytestmark = pytest.mark.anyio
PARAM = "messages[0].content[0].uuid"


def named(uuid: str, url: str | None = None) -> dict:
    """The part of an image with a uuid, or of a uuid alone."""
    return (image(url) if url else {"type": "image_url", "image_url": None}) | {"uuid": uuid}


async def ask(client, *parts, **fields) -> httpx2.Response:
    return await client.post("/v1/chat/completions", json=body(messages=[user(*parts, "What is there?")], **fields))


async def told(client, *parts, **fields) -> dict:
    reply = await ask(client, *parts, **fields)
    assert reply.status_code == 200, reply.text
    return reply.json()["lookonce"]


async def refused(client, status: int, code: str | None, *parts, param: str = PARAM, **fields) -> None:
    reply = await ask(client, *parts, **fields)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (status, code, param), reply.text


async def test_a_uuid_alone_is_the_image_that_was_sent_with_it(client):
    await refused(client, 404, "context_not_found", named("cat"))
    first = await told(client, named("cat", URL), lookonce={"on_miss": "compress"})
    again = await told(client, named("cat"))
    assert (again["cache"], again["context_id"]) == ("hit", first["context_id"])
    assert (await told(client, named("cat", URL)))["cache"] == "hit"
    both = await told(client, named("cat"), image(URL), named("dog", OTHER_URL))
    assert both["images"][0]["context_id"] == first["context_id"]
    assert len(both["images"]) == 2
    missing = {"type": "image_url", "uuid": "cat"}
    assert (await told(client, missing))["context_id"] == first["context_id"]
    await refused(client, 400, None, {"type": "image_url", "image_url": None}, param="messages[0].content[0].image_url")
    await refused(client, 400, None, named("x", f"lookonce:{first['context_id']}"))
    # Another context of the same image, as its options say: there is none yet.
    await refused(client, 404, "context_not_found", named("cat"), lookonce={"retention": 0.1}, param=None)


async def test_other_pixels_under_a_known_uuid_are_refused(client):
    await told(client, named("screen", URL))
    await refused(client, 400, "image_uuid_conflict", named("screen", OTHER_URL))
    await refused(
        client,
        400,
        "image_uuid_conflict",
        named("new", URL),
        named("new", OTHER_URL),
        param=PARAM.replace("[0].u", "[1].u"),
    )
    await told(client, named("new", OTHER_URL))  # what was refused has bound nothing


async def test_of_two_that_name_different_images_at_once_one_is_refused(client, bench):
    replies = await asyncio.gather(ask(client, named("1", URL)), ask(client, named("1", OTHER_URL), stream=True))
    codes = [reply.status_code for reply in replies]
    assert sorted(codes) == [200, 400]
    kept = (URL, OTHER_URL)[codes.index(200)]
    sent = await told(client, image(kept), lookonce={"on_miss": "compress"})
    assert (await told(client, named("1")))["context_id"] == sent["context_id"]


async def test_bytes_that_are_no_image_are_not_bound(client):
    await refused(
        client,
        400,
        "invalid_image",
        named("u", "data:image/png;base64,iVBORw0K"),
        param="messages[0].content[0].image_url.url",
    )
    await told(client, named("u", URL))


async def test_a_store_that_is_away_costs_no_answer_but_that_by_a_uuid_alone(client, bench, monkeypatch):
    from lookonce_cache import StoreUnavailableError

    async def away(*args, **kwargs):
        raise StoreUnavailableError("it is away")

    for name in ("read", "add"):
        monkeypatch.setattr(bench.store.records, name, away)
    await told(client, named("cat", URL))
    await refused(client, 503, "store_unavailable", named("cat"), param=None)


async def test_another_tenants_uuid_is_nobodys(app):
    access = TenantDirectory({key_hash(name): name for name in ("acme", "globex")})
    transport = httpx2.ASGITransport(_app(replace(app.state.parts, access=access)), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
        client.headers["authorization"] = "Bearer acme"
        first = await told(client, named("img-1", URL), lookonce={"on_miss": "compress"})
        client.headers["authorization"] = "Bearer globex"
        await refused(client, 404, "context_not_found", named("img-1"))
        other = await told(client, named("img-1", OTHER_URL), lookonce={"on_miss": "compress"})
        assert (await told(client, named("img-1")))["context_id"] == other["context_id"]
        client.headers["authorization"] = "Bearer acme"
        assert (await told(client, named("img-1")))["context_id"] == first["context_id"]
