"""The pages for people, through the whole app: open to all, and nothing but what they are."""

import io
import re
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from PIL import Image

import lookonce_server
from lookonce_server.app import _app
from lookonce_server.auth.tenants import TenantDirectory
from lookonce_server.http.state import AppState
from lookonce_server.settings import Settings

pytestmark = pytest.mark.anyio
ASSETS = Path(lookonce_server.__file__).parent / "playground" / "assets"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@pytest.fixture
async def client(bench):
    """A client without a key, of a server that wants one."""
    state = AppState(
        settings=Settings(retention=0.07, min_retention=0.02, max_image_bytes=12345),
        served_name="m",
        engine=bench.engine,
        store=bench.store,
        contexts=bench.contexts,
        sessions=bench.sessions,
        plan=bench.plan,
        access=TenantDirectory({"0" * 64: "acme"}),
        images=bench.images,
        metrics=bench.metrics,
        started_at=0.0,
    )
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(_app(state)), base_url="http://localhost") as made:
        yield made


@pytest.mark.parametrize("path", ["/", "/docs", "/monitor"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_page_is_there_for_everybody_under_a_strict_policy(client, path, method):
    reply = (await client.request(method, path)).raise_for_status()
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["content-security-policy"] == POLICY
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert (await client.get("/v1/models")).status_code == 401


@pytest.mark.parametrize("path", ["/", "/docs", "/monitor"])
async def test_a_page_names_only_what_this_server_has(client, path):
    text = (await client.get(path)).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
    loaded = re.findall(r'<(?:script|link)\b[^>]*\s(?:src|href)="([^"]+)"', text)
    assert len(loaded) >= 3
    for url in loaded:
        reply = (await client.get(f"/{url}")).raise_for_status()
        assert reply.headers["content-security-policy"] == POLICY
        etag = {"if-none-match": reply.headers["etag"]}
        assert (await client.get(f"/{url}", headers=etag)).status_code == 304


async def test_modules_are_served_as_such(client):
    modules = sorted(ASSETS.glob("*.js"))
    assert modules
    for module in modules:
        reply = (await client.get(f"/playground/assets/{module.name}")).raise_for_status()
        assert reply.headers["content-type"].startswith("text/javascript")
        for imported in re.findall(r'from "\./([^"]+)"', module.read_text(encoding="utf-8")):
            assert (ASSETS / imported).is_file()


@pytest.mark.parametrize("path", ["nothing.js", "../index.html", "..%2findex.html", "%2e%2e/%2e%2e/cli.py", ""])
async def test_nothing_else_is_served(client, path):
    assert (await client.get(f"/playground/assets/{path}")).status_code == 404


async def test_redoc_is_not_there(client):
    assert (await client.get("/redoc")).status_code == 404


async def test_settings_that_the_page_needs(client):
    found = (await client.get("/playground/settings.json")).json()
    limits = {
        "min_retention": 0.02,
        "max_retention": 0.25,
        "max_image_bytes": 12345,
        "max_images": 16,
        "max_frames": 32,
    }
    assert found == {"model": "m", "bundled": True, "retention": 0.07} | limits


@pytest.mark.parametrize("size", [(112, 112), (300, 200), (1, 5000)])
async def test_the_bundled_model_sees_the_whole_of_a_picture(client, size):
    width, height = size
    reply = await client.get("/playground/area.json", params={"width": width, "height": height})
    assert reply.json() == {"left": 0, "top": 0, "right": width, "bottom": height}


async def test_where_the_tokens_lie_may_not_be_known(client, bench, monkeypatch):
    monkeypatch.setattr(bench.engine, "facts", replace(bench.engine.facts, image_crop=None))
    reply = await client.get("/playground/area.json", params={"width": 300, "height": 200})
    assert (reply.status_code, reply.json()) == (200, None)


@pytest.mark.parametrize("wrong", [{"width": 0, "height": 1}, {"width": 1}, {"width": 1, "height": "x"}])
async def test_a_size_that_is_none_is_named(client, wrong):
    reply = await client.get("/playground/area.json", params=wrong)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_a_scene_and_its_questions(client):
    picture = await client.get("/playground/scenes/11.png")
    assert Image.open(io.BytesIO(picture.content)).size == (112, 112)
    assert picture.content == (await client.get("/playground/scenes/11.png")).content
    questions = (await client.get("/playground/scenes/11.json")).json()
    assert {"text": "Where is the purple star?", "answer": "bottom center"} in questions
    assert questions == (await client.get("/playground/scenes/11.json")).json()


@pytest.mark.parametrize("kind", ["png", "json"])
@pytest.mark.parametrize(("number", "status"), [(0, 200), (10**9 - 1, 200), (10**9, 400), (-1, 400), ("x", 400)])
async def test_only_scenes_that_the_model_was_not_trained_on(client, number, status, kind):
    reply = await client.get(f"/playground/scenes/{number}.{kind}")
    assert reply.status_code == status
    if status == 400:
        assert reply.json()["error"]["param"] == "number"


@pytest.mark.parametrize(("kind", "count"), [("albums", 2), ("videos", 6)])
async def test_an_album_and_a_moving_scene_with_their_questions(client, kind, count):
    drawn = (await client.get(f"/playground/{kind}/11.json")).json()
    assert drawn["pictures"] == [f"playground/{kind}/11/{at}.png" for at in range(1, count + 1)]
    pictures = [(await client.get(f"/{path}")).content for path in drawn["pictures"]]
    assert len(set(pictures)) > 1
    assert {Image.open(io.BytesIO(picture)).size for picture in pictures} == {(112, 112)}
    assert len(drawn["questions"]) > 3
    assert all(question.keys() == {"text", "answer"} for question in drawn["questions"])
    assert drawn == (await client.get(f"/playground/{kind}/11.json")).json()
    for path, param in ((f"11/{count + 1}.png", "at"), (f"{10**9}.json", "number")):
        refused = await client.get(f"/playground/{kind}/{path}")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_albums_have_no_scenes_that_the_model_was_trained_on(client):
    assert (await client.get(f"/playground/albums/{10**9 - 20_000_000}.json")).status_code == 400
    assert (await client.get(f"/playground/albums/{10**9 - 20_000_001}.json")).status_code == 200


async def test_the_pages_are_no_part_of_the_interface(client):
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert not [path for path in paths if path in ("/", "/docs") or path.startswith("/playground")]
