"""Clients that do not read, that come by the hundred, or that leave: places, memory and descriptors come back."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psutil
import pytest

from ..support.server_process import LookonceServer
from .raw import PATIENCE, RawConnection, chat, head, post

CHAT = "/v1/chat/completions"
# So many events that no kernel's buffer takes them all: no token that ends an answer may be drawn.
LONG = {"max_tokens": 900, "logprobs": True, "top_logprobs": 5, "logit_bias": {str(i): -100 for i in range(4)}}


@pytest.fixture(scope="module")
def server() -> Iterator[LookonceServer]:
    """One request of a tenant at a time, and little patience."""
    with LookonceServer("--max-concurrent-per-tenant", "1", "--send-timeout", "1") as running:
        yield running


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def status_of_a_question(server: LookonceServer) -> int:
    return server.post(CHAT, content=chat(), headers={"content-type": "application/json"}).status_code


def test_a_stream_that_nobody_reads_gives_its_place_back(server):
    gone = server.metric("requests_total", status="499")
    with RawConnection(server.url, receive_buffer=2048) as connection:
        connection.send(post(CHAT, chat(stream=True, **LONG)))
        until(lambda: status_of_a_question(server) == 429)
        until(lambda: status_of_a_question(server) == 200)
        server.wait_for("queue_depth", 0)
        server.wait_for("requests_total", gone + 1, status="499")
        assert server.metric("requests_refused_total", reason="send_timeout") > 0


def test_a_stream_that_is_read_slowly_goes_on(server):
    """A client that reads some in the time is waited for, however much there is."""
    with RawConnection(server.url, receive_buffer=2048) as connection:
        connection.send(post(CHAT, chat(stream=True, **LONG)))
        received = bytearray()
        while b"[DONE]" not in received[-64:]:
            piece = connection.socket.recv(8192)
            assert piece, "the server gave it up"
            received += piece
            time.sleep(0.005)


@pytest.mark.parametrize(
    "request_",
    [
        head("GET", "/playground/assets/swagger-ui-bundle.js") * 3,
        head("GET", "/openapi.json") * 10,
        post(CHAT, chat(**LONG), "connection: close"),
    ],
    ids=["file", "json", "chat"],
)
def test_an_answer_that_nobody_reads_does_not_keep_its_connection(server, request_):
    process = psutil.Process(server.pid)
    before = process.num_fds()
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(RawConnection(server.url, receive_buffer=2048)).send(request_)
        until(lambda: process.num_fds() > before)
        until(lambda: process.num_fds() <= before)


def test_many_pipelined_requests_are_not_all_kept(server):
    """What waits behind an answer that is not read is bounded; the client can ask again for what was not answered."""
    memory = psutil.Process(server.pid).memory_info().rss
    with RawConnection(server.url, receive_buffer=2048) as connection:
        connection.send_until_refused(head("GET", "/openapi.json") * 2000, 50_000_000)
    assert psutil.Process(server.pid).memory_info().rss - memory < 30_000_000
    with RawConnection(server.url) as connection:
        connection.send(head("GET", "/health") * 10)
        assert [connection.answer().status for _ in range(10)] == [200] * 10


def test_cut_streams_give_their_descriptors_back(server):
    process = psutil.Process(server.pid)
    assert status_of_a_question(server) == 200
    before = process.num_fds()
    for _ in range(100):
        with RawConnection(server.url) as connection:
            connection.send(post(CHAT, chat(stream=True, **LONG)))
            connection.status_line()
    until(lambda: process.num_fds() <= before)
    until(lambda: status_of_a_question(server) == 200)
    server.wait_for("queue_depth", 0)


def test_more_connections_than_descriptors_are_refused_and_the_log_stays_short():
    with LookonceServer(open_files="200:200") as server, ExitStack() as stack:
        idle = [stack.enter_context(RawConnection(server.url)) for _ in range(400)]
        refused = idle[-1].answer()
        assert (refused.status, refused.code, refused.closes) == (503, "too_many_connections", True)
        assert idle[0].send(head("GET", "/health")).answer().status == 200
        for connection in idle[1:]:
            connection.close()
        until(lambda: _is_answered(server))
        assert status_of_a_question(server) == 200
        log = server.log()
        assert "Traceback" not in log
        assert len(log) < 5000
        assert "may open 200 files" in log
        assert server.metric("requests_refused_total", reason="too_many_connections") > 100


def test_connections_are_bounded_by_the_setting():
    """The limit on open files is raised as far as that takes."""
    with LookonceServer("--max-connections", "50", open_files="100:1000") as server, ExitStack() as stack:
        assert psutil.Process(server.pid).rlimit(psutil.RLIMIT_NOFILE) == (50 + 128, 1000)
        kept = [stack.enter_context(RawConnection(server.url)) for _ in range(40)]
        more = [stack.enter_context(RawConnection(server.url)) for _ in range(100)]
        for connection in more[10:]:
            answer = connection.answer()
            assert (answer.status, answer.code, answer.closes) == (503, "too_many_connections", True)
            assert answer.headers["retry-after"] == "1"
            assert connection.is_closed()
        for connection in kept:
            assert connection.send(head("GET", "/health")).answer().status == 200
        for connection in (*kept, *more):
            connection.close()
        until(lambda: _is_answered(server))
        assert server.log().count("too_many_connections") < 5


def _is_answered(server: LookonceServer) -> bool:
    with RawConnection(server.url) as connection:
        try:
            connection.send(head("GET", "/health"))
            return connection.answer().status == 200
        except OSError:  # refused as it was sent
            return False
