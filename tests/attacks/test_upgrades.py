"""Requests that are written oddly, or wrongly: each has an answer or an end, and never a second meaning."""

import json
from collections.abc import Iterator

import pytest

from lookonce_server.auth.tenants import key_hash, new_key

from ..support.pictures import picture_url
from ..support.server_process import LookonceServer
from .raw import RawConnection, chat, chunked, head, post

CHAT = "/v1/chat/completions"
H2C = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAoAAAAAIAAAAA")
WEBSOCKET = ("connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: AAAA")
INVALID = (400, "invalid_http")


@pytest.fixture(scope="module")
def server() -> Iterator[LookonceServer]:
    with LookonceServer("--root-path", "/vision", "--body-timeout", "2") as running:
        yield running


@pytest.fixture(scope="module")
def guarded() -> Iterator[LookonceServer]:
    """It asks for keys, and believes a proxy on this machine."""
    hashes = f"someone=sha256:{key_hash(new_key())}"
    with LookonceServer(
        "--api-key-hashes", hashes, "--root-path", "/vision", "--forwarded-allow-ips", "127.0.0.1"
    ) as running:
        yield running


@pytest.fixture
def connection(server) -> Iterator[RawConnection]:
    with RawConnection(server.url) as made:
        yield made


# --- offers of other protocols ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [post, chunked])
@pytest.mark.parametrize("offer", [H2C, WEBSOCKET, ("connection: keep-alive, upgrade", "upgrade: h2c"), H2C[1:]])
def test_an_offer_of_another_protocol_is_ignored_and_the_request_answered(connection, request_, offer):
    for _ in range(2):
        answer = connection.send(request_(CHAT, chat(), *offer)).answer()
        assert answer.status == 200
        assert answer.json()["choices"][0]["message"]["content"]
        assert not {"upgrade", "sec-websocket-accept"} & answer.headers.keys()
    assert connection.send(head("GET", "/health", *offer)).answer().status == 200


def test_an_offer_whose_body_comes_later_and_in_pieces_is_answered(connection):
    request = post(CHAT, chat(user="u" * 50_000), *H2C)
    for start, end in ((0, 10), (10, 200), (200, 5000), (5000, None)):
        connection.send(request[start:end])
    assert connection.answer().status == 200


def test_an_offer_among_pipelined_requests_is_answered_in_its_turn(connection):
    requests = [head("GET", "/health"), post(CHAT, chat(), *H2C), head("GET", "/nothing", *WEBSOCKET), head("GET", "/")]
    connection.send(b"".join(requests))
    assert [connection.answer().status for _ in requests] == [200, 200, 404, 200]


def test_http_2_without_an_offer_is_refused(connection):
    answer = connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").answer()
    assert (answer.status, answer.code) == INVALID
    assert connection.is_closed()


# --- a client that waits to be asked for its body ---------------------------------------------------------------------


def test_a_body_that_waits_to_be_asked_for_is_asked_for(connection):
    body = chat()
    connection.send(head("POST", CHAT, JSON, "expect: 100-continue", f"content-length: {len(body)}"))
    assert connection.status_line() == "HTTP/1.1 100 Continue"
    assert connection.status_line() == ""
    assert connection.send(body).answer().status == 200
    assert connection.send(head("GET", "/health")).answer().status == 200


def test_a_body_that_waits_and_is_not_wanted_ends_the_connection(guarded):
    """Or the next request on it would be taken for the body."""
    with RawConnection(guarded.url) as connection:
        connection.send(head("POST", CHAT, "expect: 100-continue", "content-length: 1000"))
        assert connection.status_line() == "HTTP/1.1 401 Unauthorized"
    with RawConnection(guarded.url) as connection:
        answer = connection.send(head("POST", CHAT, "expect: 100-continue", "content-length: 1000")).answer()
        assert answer.closes
        assert connection.is_closed()


# --- several requests on a connection ---------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(connection):
    connection.send(post(CHAT, chat()) + head("GET", "/health") + post(CHAT, b"{") + head("GET", "/v1/models"))
    answers = [connection.answer() for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 400, 200]
    assert answers[3].json()["object"] == "list"


def test_a_wrong_request_behind_others_does_not_cut_their_answers(connection):
    connection.send(post(CHAT, chat(stream=True)) + head("GET", "/health") + b"nonsense\r\n\r\n")
    assert connection.answer().body.endswith(b"data: [DONE]\n\n")
    answer = connection.answer()
    assert (answer.status, answer.json()) == (200, {"status": "ok"})
    assert connection.is_closed()


def test_http_1_0_is_answered_and_closed(connection):
    assert connection.send(head("GET", "/health", version="1.0")).answer().status == 200
    assert connection.is_closed()


# --- requests of two meanings -----------------------------------------------------------------------------------------

JSON = "content-type: application/json"
LENGTH = "content-length: 2"
CHUNKED = "transfer-encoding: chunked"
NOTHING = b"0\r\n\r\n"
AMBIGUOUS = {
    "two lengths": head("POST", CHAT, LENGTH, "content-length: 3") + b"{} ",
    "twice the same length": head("POST", CHAT, LENGTH, LENGTH) + b"{}",
    "a list of lengths": head("POST", CHAT, "content-length: 2, 2") + b"{}",
    "length and chunks": head("POST", CHAT, LENGTH, CHUNKED) + NOTHING,
    "chunks and length": head("POST", CHAT, CHUNKED, LENGTH) + NOTHING,
    "a negative length": head("POST", CHAT, "content-length: -2") + b"{}",
    "a signed length": head("POST", CHAT, "content-length: +2") + b"{}",
    "a hexadecimal length": head("POST", CHAT, "content-length: 0x2") + b"{}",
    "a length without end": head("POST", CHAT, "content-length: " + "9" * 100),
    "another coding": head("POST", CHAT, "transfer-encoding: xchunked") + NOTHING,
    "chunked and more": head("POST", CHAT, "transfer-encoding: chunked, identity") + NOTHING,
    "chunked twice": head("POST", CHAT, CHUNKED, "transfer-encoding: x") + NOTHING,
    "a space before the colon": head("POST", CHAT, "transfer-encoding : chunked") + NOTHING,
    "a folded header": head("POST", CHAT, "x: y", " transfer-encoding: chunked") + NOTHING,
    "a NUL": head("GET", "/health", "x: a\0b"),
    "a bare CR": head("GET", "/health", "x: a\rb: c"),
    "a bare LF": b"GET /health HTTP/1.1\nhost: localhost\n\n",
    "a header without colon": head("GET", "/health", "x"),
    "two hosts": head("GET", "/health", "host: evil.example"),
    "another host in the target": head("GET", "http://evil.example/health"),
    "no path in the target": head("GET", "http://localhost"),
    "a chunk of nonsense": head("POST", CHAT, CHUNKED) + b"zz\r\n",
    "a chunk without end": head("POST", CHAT, CHUNKED) + b"f" * 40 + b"\r\n",
    "a chunk longer than it says": head("POST", CHAT, CHUNKED) + b"2\r\n{}x\r\n" + NOTHING,
    "a tunnel": head("CONNECT", "localhost:80", host="localhost:80"),
    "a method of ours": head("GETS", "/health"),
    "a target that is no ASCII": head("GET", "/\xff"),
    "a target with a space": head("GET", "/health /x"),
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/2.0": head("GET", "/health", version="2.0"),
    "HTTP/1.9": head("GET", "/health", version="1.9"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
}


def test_what_could_be_read_in_two_ways_is_refused_and_the_connection_ended(server):
    for what, request in AMBIGUOUS.items():
        with RawConnection(server.url) as connection:
            answer = connection.send(request + head("GET", "/v1/models")).answer()
            assert (answer.status, answer.code, answer.closes) == (*INVALID, True), what
            assert connection.is_closed(), what
    assert server.log().count("invalid_http") < 10


UNUSUAL = {
    "blank lines before": (b"\r\n\r\n" + head("GET", "/health"), 200),
    "an absolute target": (head("GET", "http://localhost/health"), 200),
    "the whole server": (head("OPTIONS", "*"), 404),
    "two slashes": (head("GET", "//v1/models"), 404),
    "dots": (head("GET", "/v1/../health"), 404),
    "a coded slash": (head("GET", "/v1%2Fmodels"), 200),
    "a coded slash at the end": (head("GET", "/v1/models%2F"), 200),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 403),
    "another method": (head("PROPFIND", "/health"), 405),
    "a second coding": (head("POST", CHAT, JSON, "transfer-encoding: gzip, chunked") + NOTHING, 400),
    "no body": (head("POST", CHAT, JSON), 400),
    "a body that nobody asked for": (head("GET", "/health", LENGTH) + b"{}", 200),
}


def test_what_is_unusual_is_answered_and_the_connection_goes_on(server):
    for what, (request, status) in UNUSUAL.items():
        with RawConnection(server.url) as connection:
            assert connection.send(request).answer().status == status, what
            assert connection.send(head("GET", "/health")).answer().status == 200, what


def test_a_body_that_breaks_off_is_told_so_while_it_is_waited_for(connection):
    """The server has begun to read it when the nonsense comes."""
    connection.send(head("POST", CHAT, JSON, CHUNKED, "expect: 100-continue"))
    assert connection.status_line() == "HTTP/1.1 100 Continue"
    assert connection.status_line() == ""
    answer = connection.send(b"2\r\n{}\r\nnonsense\r\n").answer()
    assert (answer.status, answer.code) == INVALID
    assert connection.is_closed()


# --- behind a proxy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/vision"])
def test_a_slash_at_the_end_changes_nothing(server, prefix):
    """No redirect either, which would name a host and a scheme that are not those of the proxy."""
    with RawConnection(server.url) as connection:
        made = connection.send(
            post(f"{prefix}/v1/contexts/", json.dumps({"image_url": picture_url(1)}).encode())
        ).answer()
        context = made.json()["id"]
        asked = {
            post(f"{prefix}{CHAT}/", chat()): 200,
            head("GET", f"{prefix}/v1/models/"): 200,
            head("GET", f"{prefix}/v1/models/lookonce-scenes/"): 200,
            head("GET", f"{prefix}/health/"): 200,
            head("GET", f"{prefix}/"): 200,
            head("GET", f"{prefix}/docs/?x=1"): 200,
            head("GET", f"{prefix}/v1/contexts/?limit=1"): 200,
            head("GET", f"{prefix}/v1/contexts/{context}/"): 200,
            head("DELETE", f"{prefix}/v1/contexts/{context}/"): 200,
            head("GET", f"{prefix}/v1/nothing/"): 404,
            head("PUT", f"{prefix}/health/"): 405,
        }
        for request, status in asked.items():
            answer = connection.send(request).answer()
            assert (answer.status, answer.headers.get("location")) == (status, None), request
        answer = connection.send(head("HEAD", f"{prefix}/docs/")).answer(to_head=True)
        assert (answer.status, answer.headers.get("location")) == (200, None)


def test_the_documents_name_the_root_path(server):
    assert server.get("/openapi.json").json()["servers"] == [{"url": "/vision"}]
    assert server.get("/vision/openapi.json").json()["servers"] == [{"url": "/vision"}]


PATHS = ["/v1/models", "/v1/models/", "/vision/v1/models", "/vision/v1/models/", "/v1%2Fmodels", "/%76ision/v1/models"]


def test_no_way_to_write_a_path_gets_round_the_key(guarded):
    with RawConnection(guarded.url) as connection:
        for path in PATHS:
            assert connection.send(head("GET", path)).answer().status == 401, path
        for path in (
            "//v1/models",
            "/vision//v1/models",
            "/vision/vision/v1/models",
            "/visionv1/models",
            "/x/../v1/models",
        ):
            assert connection.send(head("GET", path)).answer().status in (401, 404), path


def test_forwarded_headers_do_not_move_the_walls(server, guarded):
    """Neither where no proxy is believed, nor where this machine is."""
    fields = ("x-forwarded-for: 127.0.0.1", "x-forwarded-proto: https", "x-forwarded-host: localhost", "forwarded: x")
    with RawConnection(server.url) as connection:
        answer = connection.send(head("GET", "/v1/models", *fields, host="evil.example")).answer()
        assert (answer.status, answer.code) == (403, "host_not_allowed")
    with RawConnection(guarded.url) as connection:
        assert connection.send(head("GET", "/v1/models", *fields, host="evil.example")).answer().status == 401
        assert connection.send(head("GET", "/health", *fields, "x-forwarded-for: \xff,,[")).answer().status == 200
