"""/v1/files: what is uploaded, listed and named by its id, within limits, and never another tenant's."""

import asyncio
import base64
from dataclasses import replace

import httpx2
import openai
import pytest

from lookonce_cache import BlobKey
from lookonce_server.app import _app
from lookonce_server.auth.tenants import TenantDirectory, key_hash
from lookonce_server.sessions.file_store import FileLimits, FileStore

from ....support.app_requests import URL, body, image, send, user
from ....support.responses_requests import asked
from ....support.responses_requests import refused as response_refused
from ....support.samples import png

pytestmark = pytest.mark.anyio
NEVER = f"file-{'0' * 64}"


async def upload(client, data: bytes = png(1), name: str = "a.png", **fields) -> httpx2.Response:
    return await client.post("/v1/files", files={"file": (name, data)}, data={"purpose": "vision", **fields})


async def uploaded(client, data: bytes = png(1), **fields) -> dict:
    reply = await upload(client, data, **fields)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def refused(reply: httpx2.Response, status: int, param: str | None, match: str) -> dict:
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, param), reply.text
    assert match in error["message"], error
    return error


def part(file_id: str) -> dict:
    return {"type": "file", "file": {"file_id": file_id}}


@pytest.fixture
def tenants(app):
    """Clients of two tenants of one server."""
    access = TenantDirectory({key_hash(name): name for name in ("acme", "globex")})
    transport = httpx2.ASGITransport(_app(replace(app.state.parts, access=access)), raise_app_exceptions=False)
    return [
        httpx2.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=60, headers={"authorization": f"Bearer {name}"}
        )
        for name in ("acme", "globex")
    ]


@pytest.fixture
def yielding(bench, monkeypatch) -> None:
    """Other tasks run while the store reads and writes, as with one that is not in memory."""
    for name in ("read", "write"):
        call = getattr(bench.store.images, name)

        async def call_later(*args, call=call, **kwargs):
            await asyncio.sleep(0)
            return await call(*args, **kwargs)

        monkeypatch.setattr(bench.store.images, name, call_later)


# --- a file's life ----------------------------------------------------------------------------------------------------


async def test_openais_client_uploads_lists_reads_and_deletes(client):
    made = openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="any", http_client=client)
    life = {"anchor": "created_at", "seconds": 3600}
    first = await made.files.create(file=("a.png", png(1)), purpose="vision", expires_after=life)
    second = await made.files.create(file=("b.png", png(2)), purpose="user_data")
    assert (first.filename, first.bytes, first.purpose, first.status) == ("a.png", len(png(1)), "vision", "processed")
    assert first.expires_at == first.created_at + 3600
    assert second.expires_at == second.created_at + 7 * 24 * 3600
    assert [file.id async for file in made.files.list(limit=1)] == [second.id, first.id]  # page by page
    assert [file.id async for file in made.files.list(order="asc", purpose="vision")] == [first.id]
    assert await made.files.retrieve(first.id) == first
    assert (await made.files.content(first.id)).content == png(1)
    assert (await made.files.delete(first.id)).deleted
    for call in (made.files.retrieve, made.files.content, made.files.delete):
        with pytest.raises(openai.NotFoundError, match="There is no file"):
            await call(first.id)
    assert [file.id async for file in made.files.list()] == [second.id]


async def test_its_bytes_are_to_be_saved_and_not_shown(client):
    reply = await client.get(f"/v1/files/{(await uploaded(client))['id']}/content")
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"] == "attachment"


async def test_what_is_no_upload_is_refused_by_name(client):
    cases = [
        ({"data": b"%PDF-1.7"}, 400, "file", "no image of a known format"),
        ({"data": b""}, 400, "file", "empty"),
        ({"purpose": "batch"}, 400, "purpose", "'vision' or 'user_data'"),
        ({"expires_after[anchor]": "created_at"}, 400, "expires_after[seconds]", "Field required"),
        ({"expires_after[seconds]": "3600"}, 400, "expires_after[anchor]", "Field required"),
        ({"surprise": "1"}, 400, "surprise", "not supported"),
    ]
    for seconds in ("3599", "2592001", "x"):
        life = {"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}
        cases.append((life, 400, "expires_after[seconds]", "expires_after[seconds]"))
    for fields, *expected in cases:
        await refused(await upload(client, **fields), *expected)
    no_file = await client.post("/v1/files", files={"image": ("a.png", png(1))}, data={"purpose": "vision"})
    await refused(no_file, 400, "image", "expected text")
    await refused(await client.post("/v1/files", json={"file": URL}), 415, "content-type", "multipart/form-data")
    assert (await client.get("/v1/files")).json()["data"] == []
    await refused(await client.get("/v1/files", params={"after": NEVER}), 400, "after", "no file of yours")


async def test_a_form_is_broken_off_where_it_grows_too_large(client_with):
    client = client_with(max_image_bytes=10_000)
    await refused(await upload(client, png(1) + bytes(10_000)), 413, None, "limit of 10000 bytes")
    sent = 0

    async def endless():
        nonlocal sent
        yield b'--edge\r\ncontent-disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        while True:
            sent += 65536
            yield bytes(65536)

    headers = {"content-type": "multipart/form-data; boundary=edge"}
    await refused(await client.post("/v1/files", content=endless(), headers=headers), 413, None, "limit of 10000")
    assert sent < 2 * 1024**2


@pytest.mark.usefixtures("yielding")
async def test_a_tenant_keeps_as_many_files_and_bytes_as_it_may_however_it_uploads(client_with):
    for limits, most in (({"max_files": 3}, 3), ({"max_files_bytes": 2 * len(png(1))}, 2)):
        client = client_with(**limits)
        replies = await asyncio.gather(*(upload(client) for _ in range(8)))
        assert sorted(reply.status_code for reply in replies) == [200] * most + [400] * (8 - most)
        errors = [reply.json()["error"] for reply in replies if reply.status_code == 400]
        assert {(error["param"], error["code"]) for error in errors} == {("file", "file_limit_exceeded")}
        kept = {reply.json()["id"] for reply in replies if reply.status_code == 200}
        assert {file["id"] for file in (await client.get("/v1/files")).json()["data"]} == kept
        for file_id in kept:
            await client.delete(f"/v1/files/{file_id}")
        await uploaded(client)
        await client.delete(f"/v1/files/{(await client.get('/v1/files')).json()['first_id']}")


@pytest.mark.usefixtures("yielding")
async def test_servers_that_share_a_store_lose_no_file(bench):
    servers = [FileStore(bench.store, FileLimits()) for _ in range(3)]
    files = await asyncio.gather(*(servers[i % 3].add("t", png(1), "a", "vision", None) for i in range(9)))
    for server in servers:
        assert {file.id for file in await server.list("t")} == {file.id for file in files}
        assert await server.read("t", files[0].id) == png(1)


async def test_what_has_expired_or_was_dropped_is_no_file(client, bench, monkeypatch):
    life = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    short, dropped = await uploaded(client, **life), await uploaded(client)
    key = BlobKey("default", dropped["id"].removeprefix("file-"))
    assert await bench.store.images.forget(key)
    assert (await client.get(f"/v1/files/{dropped['id']}/content")).status_code == 404
    assert [file["id"] for file in (await client.get("/v1/files")).json()["data"]] == [short["id"]]
    monkeypatch.setattr("lookonce_server.sessions.file_store.time.time", lambda: short["expires_at"])
    assert (await client.get("/v1/files")).json()["data"] == []
    assert (await client.get(f"/v1/files/{short['id']}")).status_code == 404


async def test_a_server_may_keep_no_files(client_with):
    client = client_with(files=False)
    for reply in (await upload(client), await client.get("/v1/files"), await client.get(f"/v1/files/{NEVER}")):
        await refused(reply, 400, None, "keeps no files")
    question = body(messages=[user(part(NEVER), "What is there?")])
    reply = await client.post("/v1/chat/completions", json=question)
    await refused(reply, 400, "messages[0].content[0].file.file_id", "keeps no files")


# --- questions about files --------------------------------------------------------------------------------------------


async def test_a_file_is_the_image_that_it_holds_wherever_it_is_named(app, client):
    file_id = (await uploaded(client))["id"]
    context = (await client.post("/v1/contexts", json={"file_id": file_id})).json()
    assert (await client.post("/v1/contexts", json={"image_url": URL})).json()["id"] == context["id"]
    data = {"type": "file", "file": {"filename": "a.png", "file_data": URL}}
    for content in (part(file_id), data, image()):
        reply = (await send(app, body(messages=[user(content, "What is there?")]))).json()
        assert (reply["lookonce"]["cache"], reply["lookonce"]["context_id"]) == ("hit", context["id"])
    for named in (
        {"type": "input_image", "detail": "auto", "file_id": file_id},
        {"type": "input_file", "file_id": file_id},
        {"type": "input_file", "filename": "a.png", "file_data": URL},
    ):
        response = await asked(client, [{"role": "user", "content": [named, {"type": "input_text", "text": "Hi"}]}])
        assert response["lookonce"]["context_id"] == context["id"]
    listed = (await client.get(f"/v1/responses/{response['id']}/input_items")).json()["data"]
    assert listed[0]["content"][0]["image_url"] == f"lookonce:{context['id']}"
    await client.delete(f"/v1/files/{file_id}")
    reply = await send(app, body(messages=[user(part(file_id), "What is there?")]))
    error = await refused(reply, 404, "messages[0].content[0].file.file_id", "There is no file")
    assert error["code"] == "file_not_found"
    assert (await send(app, body(messages=[user(image(), "Hi")]))).json()["lookonce"]["cache"] == "hit"


async def test_a_part_names_one_image_or_is_refused_by_name(app, client):
    for file, field in (
        ({}, "file_id"),
        ({"file_id": NEVER, "file_data": URL}, "file_data"),
        ({"file_data": "data:image/png;base64,abcde"}, "file_data"),
        ({"file_id": 3}, "file_id"),
    ):
        reply = await send(app, body(messages=[user({"type": "file", "file": file}, "Hi")]))
        assert reply.status_code == 400, reply.text
        assert reply.json()["error"]["param"] == f"messages[0].content[0].file.{field}"
    for named, field in (
        ({"type": "input_image"}, "image_url"),
        ({"type": "input_image", "image_url": URL, "file_id": NEVER}, "file_id"),
        ({"type": "input_file", "file_data": URL, "file_url": URL}, "file_url"),
    ):
        error = await response_refused(client, input_=[{"role": "user", "content": [named]}])
        assert error["param"] == f"input[0].content[0].{field}"
    for fields in ({"file_id": NEVER, "image_url": URL}, {"file_id": NEVER, "video_url": URL}):
        await refused(await client.post("/v1/contexts", json=fields), 400, "file_id", "not of both")
    await refused(await client.post("/v1/contexts", json={"file_id": NEVER}), 404, "file_id", "There is no file")


async def test_the_same_bytes_under_another_head_are_one_image(client_with):
    payload = base64.b64encode(png(1)).decode()
    heads = ("image/png", "image/jpeg", "", "application/octet-stream")
    urls = [f"data:{head};base64,{payload}" for head in heads] + [f"data:image/png;base64,{payload.rstrip('=')}"]
    client = client_with(max_images=2)
    question = body(messages=[user(*map(image, urls), "What is there?")])
    reply = (await client.post("/v1/chat/completions", json=question)).json()
    assert len(reply["lookonce"]["images"]) == 1


async def test_another_tenants_file_does_not_exist(tenants):
    acme, globex = tenants
    theirs = (await uploaded(acme))["id"]
    assert (await globex.get("/v1/files")).json()["data"] == []
    parts = [{"type": "input_image", "file_id": None}, {"type": "input_text", "text": "Hi"}]
    for method, path, request in (
        ("GET", "/v1/files/{}", None),
        ("GET", "/v1/files/{}/content", None),
        ("DELETE", "/v1/files/{}", None),
        ("POST", "/v1/chat/completions", lambda file_id: body(messages=[user(part(file_id), "Hi")])),
        (
            "POST",
            "/v1/responses",
            lambda file_id: {
                "model": "m",
                "input": [{"role": "user", "content": [parts[0] | {"file_id": file_id}, parts[1]]}],
            },
        ),
        ("POST", "/v1/contexts", lambda file_id: {"file_id": file_id}),
    ):
        replies = [
            await globex.request(method, path.format(file_id), json=request and request(file_id))
            for file_id in (theirs, NEVER)
        ]
        assert [reply.status_code for reply in replies] == [404, 404], path
        assert replies[0].text.replace(theirs, NEVER) == replies[1].text
    assert (await acme.get(f"/v1/files/{theirs}/content")).content == png(1)  # nor was it deleted
