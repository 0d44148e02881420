"""What outlives a restart: a question by id before and after, the same id and the same answer."""

from collections.abc import Callable, Iterator

import pytest

from ..support.http_requests import ask, get_to_know
from ..support.load import PATIENCE
from ..support.redis_server import RedisServer, wait_until
from ..support.server_process import LookonceServer

PICTURES = range(300, 303)


@pytest.fixture(scope="module")
def lasting_redis() -> Iterator[RedisServer]:
    """A Redis that writes down what it is told."""
    with RedisServer(persistent=True) as running:
        yield running


@pytest.fixture(scope="module")
def server(lasting_redis: RedisServer) -> Iterator[LookonceServer]:
    with LookonceServer("--store", lasting_redis.url) as running:
        yield running


def the_server(server: LookonceServer, lasting_redis: RedisServer) -> None:
    server.restart()


def redis(server: LookonceServer, lasting_redis: RedisServer) -> None:
    lasting_redis.restart()


def both(server: LookonceServer, lasting_redis: RedisServer) -> None:
    server.kill()
    lasting_redis.restart()
    server.start()


@pytest.mark.parametrize("restart", [the_server, redis, both])
def test_ids_and_answers_outlive_a_restart_of(
    server, lasting_redis, restart: Callable[[LookonceServer, RedisServer], None]
):
    with lasting_redis.client() as client:
        client.flushall()
    known = get_to_know(server, PICTURES)
    restart(server, lasting_redis)
    wait_until(lambda: server.get("/ready").json().get("store_state") == "ok", "it is ready again")
    described = server.metric("describes_total")
    for one in known:
        reply = ask(server, one.reference())
        assert (reply.status, reply.cache, reply.text, reply.context_id) == (200, "hit", one.hit, one.context_id)
    listed = server.get("/v1/contexts").json()["data"]
    assert {context["id"] for context in listed} == {one.context_id for one in known}
    assert server.metric("describes_total") == described
    server.wait_for("store_breaker_open", 0, seconds=PATIENCE)


def test_contexts_in_memory_end_with_the_server_and_its_clients_are_told():
    with LookonceServer() as server:
        (known,) = get_to_know(server, PICTURES[:1])
        server.restart()
        reply = ask(server, known.reference())
        assert (reply.status, reply.code, reply.text) == (404, "context_not_found", None)
        assert get_to_know(server, PICTURES[:1]) == [known]  # the image brings back the very same id and answers
        assert ask(server, known.reference()).text == known.hit
