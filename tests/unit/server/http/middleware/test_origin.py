"""The outer wall: which Hosts and web pages may ask, and what every answer has, whatever became of its request."""

import logging
import re

import httpx2
import pytest

from lookonce_server.app import running_app
from lookonce_server.auth.tenants import is_loopback, key_hash
from lookonce_server.settings import Settings

pytestmark = pytest.mark.anyio
KEY = "lo-" + "x" * 43
PAGE = "https://app.example"
WORD = "bicycle"


@pytest.fixture(scope="module")
async def app():
    async with running_app(Settings(allowed_origins=f"{PAGE}, http://localhost:5173", max_requests=2)) as app:
        yield app


@pytest.fixture(scope="module")
async def keyed():
    settings = Settings(api_key_hashes=f"acme=sha256:{key_hash(KEY)}", requests_per_minute=2)
    async with running_app(settings) as app:
        yield app


def client_of(app, base_url: str = "http://localhost", **headers: str) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url=base_url, headers=headers)


async def get(app, path: str = "/v1/models", method: str = "GET", **headers: str) -> httpx2.Response:
    async with client_of(app) as client:
        return await client.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})


# --- hosts ------------------------------------------------------------------------------------------------------------

OWN = [
    "localhost",
    "LOCALHOST:8000",
    "a.localhost:1",
    "127.0.0.1",
    "127.0.0.1:8000",
    "127.9.9.9",
    "[::1]",
    "[::1]:8000",
]
FOREIGN = [
    "evil.example",
    "localhost.evil.example",
    "192.168.0.1:8000",
    "0.0.0.0",
    "[fe80::1]",
    "",
    "[",
    "127.0.0.1.x",
    "x@1",
]


@pytest.mark.parametrize("host", OWN)
async def test_names_of_this_machine_are_served(app, host):
    assert (await get(app, host=host)).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/docs", "/health", "/"])
async def test_without_keys_other_hosts_are_refused_everywhere(app, host, path):
    reply = await get(app, path, host=host)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["type"]) == (403, "host_not_allowed", "invalid_request_error")


@pytest.mark.parametrize("host", [*OWN, *FOREIGN])
async def test_with_keys_any_host_is_served(keyed, host):
    assert (await get(keyed, "/health", host=host)).status_code == 200


async def test_who_allows_anyone_allows_any_host():
    async with running_app(Settings(host="0.0.0.0", allow_anyone=True)) as app:
        assert (await get(app, host="gpu.internal")).status_code == 200
        assert (await get(app, host="gpu.internal", origin=PAGE)).status_code == 403


@pytest.mark.parametrize(
    ("host", "is_own"), [("localhost", True), ("::1", True), ("127.0.0.2", True), ("0.0.0.0", False)]
)
def test_loopback(host, is_own):
    assert is_loopback(host) is is_own


# --- web pages --------------------------------------------------------------------------------------------------------

ALLOWED = [
    {},
    {"origin": "http://localhost"},
    {"origin": PAGE},
    {"origin": PAGE, "sec_fetch_site": "cross-site"},
    {"origin": "http://localhost:5173", "sec_fetch_site": "same-site"},
    {"sec_fetch_site": "same-origin"},
    {"sec_fetch_site": "none"},
    {"origin": "https://behind.a.proxy", "sec_fetch_site": "same-origin"},
]
REFUSED = [
    {"origin": "https://evil.example"},
    {"origin": "http://localhost:8080"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://["},
    {"origin": "http://[::1"},
    {"origin": PAGE + ".evil.example"},
    {"origin": "https://evil.example", "sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site"},
    {"sec_fetch_site": "other"},
]


@pytest.mark.parametrize("headers", ALLOWED, ids=str)
async def test_programs_and_pages_that_may_ask(app, headers):
    assert (await get(app, **headers)).status_code == 200


@pytest.mark.parametrize("headers", REFUSED, ids=str)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_other_pages_may_not(app, method, headers):
    reply = await get(app, "/v1/chat/completions", method, **headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("path", ["/health", "/metrics", "/docs"])
async def test_what_is_open_may_be_linked_to_but_not_read(app, path):
    reply = await get(app, path, sec_fetch_site="cross-site", origin="https://evil.example")
    assert reply.status_code == 200
    assert "access-control-allow-origin" not in reply.headers
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"


async def test_an_allowed_page_is_asked_first_and_reads_the_answer_and_errors(app):
    asked = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,x-stainless-os"}
    reply = await get(app, "/v1/chat/completions", "OPTIONS", origin=PAGE, sec_fetch_site="cross-site", **asked)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert reply.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    assert "access-control-allow-credentials" not in reply.headers
    for path, status in (("/v1/models", 200), ("/v1/nowhere", 404)):
        reply = await get(app, path, origin=PAGE)
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (status, PAGE)
        assert "x-request-id" in reply.headers["access-control-expose-headers"]


async def test_without_allowed_origins_none_is(keyed):
    reply = await get(keyed, origin=PAGE, authorization=f"Bearer {KEY}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "origin_not_allowed")


# --- ids and headers --------------------------------------------------------------------------------------------------


async def answers(app, keyed) -> list[httpx2.Response]:
    """Of every kind."""
    large = {"content-length": str(10**9)}
    async with client_of(app) as client:
        ours = [
            await client.get("/health"),
            await client.get("/metrics"),
            await client.get("/docs"),
            await client.get("/v1/models"),
            await client.get("/nowhere"),
            await client.put("/v1/contexts"),
            await client.post("/v1/chat/completions", json={}),
            await client.post("/v1/chat/completions", content=b"{", headers=large),
            await client.get("/v1/models", headers={"host": "evil.example"}),
            await client.get("/v1/models", headers={"origin": "https://evil.example"}),
            await client.options("/v1/models", headers={"origin": PAGE, "access-control-request-method": "GET"}),
        ]
    return [*ours, await get(keyed)]


async def test_every_answer_has_an_id_and_safe_headers(app, keyed):
    replies = await answers(app, keyed)
    assert [reply.status_code for reply in replies] == [200, 200, 200, 200, 404, 405, 400, 413, 403, 403, 200, 401]
    ids = [reply.headers["x-request-id"] for reply in replies]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", one) for one in ids)
    for reply in replies:
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert ("script-src" in policy) == (reply.url.path == "/docs")
        path = reply.url.path
        expected = "no-store" if path.startswith("/v1/") else "no-cache" if path == "/docs" else None
        assert reply.headers.get("cache-control") == expected


@pytest.mark.parametrize("given", ["a", "A-z_0.9", "x" * 64])
async def test_a_clients_own_id_is_kept(app, given):
    assert (await get(app, x_request_id=given)).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a/b", "a\tb", "caf\xe9", "a;b", '"', "<a>"])
async def test_an_id_that_would_do_harm_is_replaced(app, given):
    async with client_of(app) as client:
        reply = await client.get("/health", headers=[(b"x-request-id", given.encode("latin-1"))])
    assert reply.headers["x-request-id"].startswith("req_")


async def test_headers_that_a_route_sets_itself_stay(app):
    from starlette.responses import Response

    own = {"content-security-policy": "default-src 'self'", "cache-control": "max-age=5"}

    @app.get("/v1/page")
    async def page() -> Response:
        return Response(headers=own)

    reply = await get(app, "/v1/page")
    app.router.routes.pop()
    assert reply.headers.items() >= own.items()
    assert reply.headers.get_list("content-security-policy") == [own["content-security-policy"]]


# --- methods ----------------------------------------------------------------------------------------------------------

METHODS = {
    "/health": "GET, HEAD",
    "/openapi.json": "GET, HEAD",
    "/playground/assets/playground.js": "GET, HEAD",
    "/v1/models": "GET",
    "/v1/chat/completions": "POST",
    "/v1/contexts": "GET, POST",
    "/v1/contexts/stats": "GET",
    "/v1/contexts/x/heatmap.png": "GET, POST",
}


@pytest.mark.parametrize(("path", "methods"), METHODS.items())
async def test_a_wrong_method_is_told_all_of_the_right_ones(app, lines, path, methods):
    reply = await get(app, path, "PATCH")
    assert (reply.status_code, reply.headers["allow"]) == (405, methods)
    assert reply.json()["error"]["message"] == f"PATCH {path}: Method Not Allowed."
    assert lines()[-1].route is not None


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
async def test_who_only_looks_whether_it_is_there_may(app, path):
    head, whole = await get(app, path, "HEAD"), await get(app, path)
    assert head.status_code == whole.status_code == 200
    assert head.headers["content-type"] == whole.headers["content-type"]


async def test_an_error_names_the_path_whatever_the_host():
    async with running_app(Settings(allow_anyone=True)) as app, client_of(app) as client:
        for host in ("[", "[::1", "a b", "\xff", "x" * 5000):
            reply = await client.get("/v1/nowhere", headers=[(b"host", host.encode("latin-1"))])
            assert (reply.status_code, reply.json()["error"]["message"]) == (404, "GET /v1/nowhere: Not Found.")


# --- the log's line ---------------------------------------------------------------------------------------------------


@pytest.fixture
def lines(caplog):
    """The facts of the requests logged so far, monitors' routine ones too."""
    caplog.set_level(logging.DEBUG, "lookonce_server")
    return lambda: [record.facts for record in caplog.records if record.getMessage() == "request"]


async def test_each_request_has_one_line_with_its_route_and_nothing_of_what_was_sent(app, keyed, lines, caplog):
    for reply in await answers(app, keyed):
        assert [line.status for line in lines() if line.request_id == reply.headers["x-request-id"]] == [
            reply.status_code
        ]
    await get(app, f"/v1/models/{WORD}?{WORD}=1", x_request_id="mine", authorization=WORD)
    await get(app, f"/{WORD}", WORD.upper())
    named, nowhere = lines()[-2:]
    assert (named.request_id, named.route, named.error) == ("mine", "/v1/models/{name:path}", "model_not_found")
    assert (nowhere.route, nowhere.status) == (None, 404)
    said = caplog.text + "".join(map(str, lines()))
    assert WORD not in said
    assert {line.error for line in lines()} >= {"host_not_allowed", "origin_not_allowed", "request_too_large"}


async def test_a_questions_line_has_its_accounts(app, lines):
    chat = {"model": "lookonce-scenes", "messages": [{"role": "user", "content": WORD}], "max_tokens": 4}
    async with client_of(app) as client:
        for stream in (False, True):
            reply = await client.post("/v1/chat/completions", json=chat | {"stream": stream})
            assert reply.status_code == 200
    for line in lines():
        assert (line.tenant, line.method, line.route) == ("default", "POST", "/v1/chat/completions")
        assert (line.status, line.cache, line.error, line.saved_tokens) == (200, "none", None, 0)
        assert line.prompt_tokens == line.computed_tokens > 0
        assert 1 <= line.generated_tokens <= 4
        assert 0 < line.first_token_seconds <= line.seconds
        assert WORD not in str(line)
    assert len(lines()) == 2


async def test_an_error_that_nobody_thought_of_is_logged_with_its_id_and_answered(app, lines, caplog):
    @app.get("/v1/failing")
    async def failing() -> None:
        raise ZeroDivisionError

    reply = await get(app, "/v1/failing")
    app.router.routes.pop()
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    (line,) = lines()
    assert (line.status, line.error, line.request_id) == (500, "internal_error", reply.headers["x-request-id"])
    assert "GET /v1/failing failed" in caplog.text


# --- room -------------------------------------------------------------------------------------------------------------


async def refused(app) -> dict[str, float]:
    found = re.findall(
        r'^lookonce_requests_refused_total\{.*reason="(\w+)"\} (\S+)$', (await get(app, "/metrics")).text, re.M
    )
    return {reason: float(count) for reason, count in found}


async def test_a_tenants_rate_is_told_and_kept(keyed):
    before = await refused(keyed)
    authorization = f"Bearer {KEY}"
    replies = [await get(keyed, authorization=authorization) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == ["1", "0", "0"]
    assert {reply.headers["x-ratelimit-limit-requests"] for reply in replies} == {"2"}
    error = replies[-1].json()["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert 1 <= int(replies[-1].headers["retry-after"]) <= 30
    assert (await get(keyed, authorization="Bearer lo-")).status_code == 401  # whoever it is
    assert "x-ratelimit-limit-requests" not in (await get(keyed, "/health")).headers
    after = await refused(keyed)
    assert after["rate_limit_exceeded"] == before.get("rate_limit_exceeded", 0) + 1
    assert after["invalid_api_key"] == before.get("invalid_api_key", 0) + 1


async def test_before_a_body_is_read_there_must_be_room(app):
    read = 0

    async def body():
        nonlocal read
        read += 1
        yield b"{}"

    limiter = next(m.kwargs["limiter"] for m in app.user_middleware if "limiter" in m.kwargs)
    limiter.acquire("default")
    limiter.acquire("default")
    async with client_of(app) as client:
        reply = await client.post("/v1/chat/completions", content=body())
        assert (await client.get("/health")).status_code == 200
    assert (reply.status_code, reply.json()["error"]["code"], reply.headers["retry-after"]) == (429, "overloaded", "1")
    assert read == 0
    limiter.release("default")
    limiter.release("default")
    assert (await get(app)).status_code == 200
    assert limiter._active == 0


async def test_at_the_end_nothing_new_is_taken_on(app):
    app.state.parts.lifecycle.ending = True
    reply, ready, health = [await get(app, path) for path in ("/v1/models", "/ready", "/health")]
    app.state.parts.lifecycle.ending = False
    assert (reply.status_code, reply.json()["error"]["code"], reply.headers["retry-after"]) == (
        503,
        "shutting_down",
        "1",
    )
    assert (ready.status_code, ready.json()) == (503, {"status": "not ready", "server": "is shutting down"})
    assert health.status_code == 200


async def test_where_the_engine_has_ended_the_server_is_to_be_replaced(app):
    app.state.parts.lifecycle.failure = "The engine has ended."
    reply, ready, health = [await get(app, path) for path in ("/v1/models", "/ready", "/health")]
    app.state.parts.lifecycle.failure = None
    assert (reply.status_code, reply.json()["error"]["message"]) == (503, "The engine has ended.")
    assert ready.status_code == 503
    assert (health.status_code, health.json()) == (503, {"status": "not ready", "engine": "The engine has ended."})


async def test_a_place_is_free_when_the_last_piece_goes_out(app):
    """A client that asks on at once, as soon as its answer is whole, is no second one."""
    limiter = next(m.kwargs["limiter"] for m in app.user_middleware if "limiter" in m.kwargs)
    inside = []

    async def send(message) -> None:
        inside.append((message["type"], message.get("more_body", False), limiter._active))

    async def receive() -> dict:
        return {"type": "http.request"}

    headers = [(b"host", b"localhost")]
    await app(
        {"type": "http", "method": "GET", "path": "/v1/models", "headers": headers, "query_string": b""}, receive, send
    )
    assert inside == [("http.response.start", False, 1), ("http.response.body", False, 0)]
