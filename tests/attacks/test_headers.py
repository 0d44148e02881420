"""Heads, chunk framing and trailers without end: bounded in bytes and in time, before any key is asked."""

import time
from collections.abc import Iterator

import psutil
import pytest

from lookonce_server.auth.tenants import key_hash, new_key

from ..support.server_process import LookonceServer
from .raw import RawConnection, chat, chunked, head, post

LIMIT = 65536
KEY = new_key()
AUTHORIZATION = f"authorization: Bearer {KEY}"
MB = 1_000_000
PATIENCE = ("--header-timeout", "1", "--body-timeout", "1", "--keep-alive-timeout", "1")
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[LookonceServer]:
    hashes = f"someone=sha256:{key_hash(KEY)}"
    with LookonceServer("--api-key-hashes", hashes, *PATIENCE) as running:
        yield running


@pytest.fixture
def connection(server) -> Iterator[RawConnection]:
    with RawConnection(server.url) as made:
        yield made


def memory(server: LookonceServer) -> int:
    return psutil.Process(server.pid).memory_info().rss


ENDLESS = {
    "a header's value": (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: ", b"a" * 65536),
    "a header's name": (b"GET /health HTTP/1.1\r\nhost: localhost\r\n", b"a" * 65536),
    "headers": (b"GET /health HTTP/1.1\r\nhost: localhost\r\n", b"x: " + b"a" * 4000 + b"\r\n"),
    "tiny headers": (b"GET /health HTTP/1.1\r\nhost: localhost\r\n", b"a:b\r\n" * 10000),
    "a target": (b"GET /", b"a" * 65536),
    "a query": (b"GET /health?", b"a" * 65536),
    "a method": (b"", b"G" * 65536),
    "blank lines": (b"", b"\r\n" * 32768),
    "trailers": (chunked("/v1/contexts", b"{}").removesuffix(b"\r\n"), b"x: " + b"a" * 4000 + b"\r\n"),
    "a chunk's extension": (head("POST", "/v1/contexts", "transfer-encoding: chunked") + b"1;", b"a" * 65536),
    "chunks' extensions": (
        head("POST", "/v1/contexts", "transfer-encoding: chunked"),
        b"1;" + b"a" * 1000 + b"\r\nx\r\n",
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_never_ends_is_not_read_for_long_and_not_kept(server, what):
    start, piece = ENDLESS[what]
    server.get("/health")
    before = memory(server)
    with RawConnection(server.url) as connection:
        connection.send(start)
        connection.send_until_refused(piece, 100 * MB)
        assert memory(server) - before < 20 * MB
    assert server.get("/health").status_code == 200


@pytest.mark.parametrize(
    "large",
    [
        head("GET", "/health", "x: " + "a" * LIMIT),
        head("GET", "/health", *["a: b"] * 3000),
        head("GET", "/health?" + "a" * LIMIT),
        head("GET", "/" + "a" * LIMIT),
        head("POST", CHAT, "x: " + "a" * LIMIT, "content-length: 10"),
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 2 * LIMIT,  # and no end
        b"GET /" + b"a" * 2 * LIMIT,
        chunked(CHAT, chat(), AUTHORIZATION).removesuffix(b"\r\n") + b"x: " + b"a" * 2 * LIMIT,
    ],
    ids=["value", "many", "query", "path", "post", "no end", "target without end", "trailer"],
)
def test_a_head_that_is_too_large_is_told_so(connection, large):
    answer = connection.send(large).answer()
    assert (answer.status, answer.code, answer.closes) == (431, "headers_too_large", True)
    assert str(LIMIT) in answer.json()["error"]["message"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert connection.is_closed()


def test_a_head_within_the_limit_is_read(connection):
    for large in ("x: " + "a" * 60_000, *[f"x-{i}: {'a' * 600}" for i in range(80)]):
        assert connection.send(head("GET", "/health", large)).answer().status == 200
    assert connection.send(head("GET", "/health", *["a: b"] * 1000)).answer().status == 200


def test_a_body_in_many_small_chunks_is_read(connection):
    body = chat(user="u" * 100_000)
    assert connection.send(chunked(CHAT, body, AUTHORIZATION, size=1)).answer().status in (200, 400)
    assert connection.send(chunked(CHAT, chat(), AUTHORIZATION, size=7)).answer().status == 200


def test_a_large_body_leaves_room_for_the_next_head(connection):
    for _ in range(3):
        body = chat(metadata={"x": "y" * 2 * MB})
        assert connection.send(post(CHAT, body, AUTHORIZATION)).answer().status == 400
        assert connection.send(head("GET", "/health", "x: " + "a" * 50_000)).answer().status == 200


def test_trailers_are_no_headers(connection):
    """Or a client could say behind a body what its proxy takes out of its head."""
    request = chunked(CHAT, chat()).removesuffix(b"\r\n") + AUTHORIZATION.encode() + b"\r\n\r\n"
    assert connection.send(request).answer().status == 401


@pytest.mark.parametrize(
    "begun", [b"GET /hea", b"GET /health HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: "]
)
def test_a_head_that_comes_too_slowly_is_not_waited_for(connection, begun):
    connection.send(begun)
    answer = _trickle(connection, b"a")
    assert (answer.status, answer.code, answer.closes) == (408, "request_timeout", True)
    assert "1 seconds" in answer.json()["error"]["message"]
    assert connection.is_closed()


def test_a_second_head_that_comes_too_slowly_is_not_waited_for(connection):
    assert connection.send(head("GET", "/health")).answer().status == 200
    connection.send(b"GET /health HTTP/1.1\r\nx: ")
    assert _trickle(connection, b"a").status == 408
    assert connection.is_closed()


def test_a_connection_that_says_nothing_is_closed(connection):
    assert connection.is_closed()


def test_an_idle_connection_is_closed(connection):
    assert connection.send(head("GET", "/health")).answer().status == 200
    assert connection.is_closed()


def test_blank_lines_do_not_keep_a_connection(connection):
    assert connection.send(head("GET", "/health")).answer().status == 200
    assert _ends_while_sending(connection, b"\r\n")


def test_a_refused_body_that_goes_on_and_on_does_not_keep_its_connection(connection):
    """It is thrown away as it comes, for as long as a body may take."""
    connection.send(head("POST", CHAT, "content-length: 1000000"))
    assert connection.answer().status == 401
    assert _ends_while_sending(connection, b"a")


def test_a_refused_body_that_comes_leaves_the_connection_usable(connection):
    connection.send(head("POST", CHAT, "content-length: 1000000"))
    assert connection.answer().status == 401
    connection.send(b"a" * 1_000_000)
    assert connection.send(head("GET", "/health")).answer().status == 200


def _trickle(connection, byte: bytes):
    """The answer to one who sends a byte now and then."""
    connection.socket.settimeout(0.2)
    for _ in range(300):
        try:
            connection.socket.send(byte)
            connection.socket.recv(1, 2)  # MSG_PEEK
            break
        except TimeoutError:
            pass
    connection.socket.settimeout(60)
    return connection.answer()


def _ends_while_sending(connection, byte: bytes) -> bool:
    deadline = time.monotonic() + 60
    connection.socket.settimeout(0.2)
    while time.monotonic() < deadline:
        try:
            connection.socket.send(byte)
            if connection.socket.recv(1) == b"":
                return True
        except TimeoutError:
            pass
        except OSError:
            return True
    return False
