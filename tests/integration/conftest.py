"""Real servers for the integration tests."""

from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from lookonce_cache import open_store
from lookonce_evaluation.bench.fixtures import find_redis_server
from lookonce_evaluation.errors import EvaluationError

from ..support.network import Certificate, Network, make_certificate
from ..support.redis_cluster import RedisCluster
from ..support.redis_server import RedisServer
from ..support.stores import IMPLEMENTATIONS, store_url


def pytest_report_header() -> str:
    try:
        return f"redis-server: {find_redis_server()}"
    except EvaluationError as error:
        return str(error)


@pytest.fixture(scope="session")
def shared_redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server(shared_redis_server: RedisServer) -> RedisServer:
    """A running, empty Redis, whatever the test before has done to it."""
    shared_redis_server.go_on()
    shared_redis_server.start()
    shared_redis_server.flush()
    return shared_redis_server


@pytest.fixture(scope="session")
def shared_redis_cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def redis_cluster(shared_redis_cluster: RedisCluster) -> RedisCluster:
    """A running, empty Cluster of three masters, for tests that leave it running."""
    shared_redis_cluster.flush()
    return shared_redis_cluster


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), "server")


@pytest.fixture(scope="session")
def tls_port(shared_redis_server: RedisServer, certificate: Certificate) -> Iterator[int]:
    """Where the Redis of `redis_server` is reached by TLS."""
    with Network(shared_redis_server.port, certificate=certificate) as network:
        yield network.port


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.extended) if name == "cluster" else name for name in IMPLEMENTATIONS]
)
async def opening(request, monkeypatch):
    """A function that opens the store under test with given options; what it opened is closed at the end."""
    monkeypatch.setattr("lookonce_cache.stores.redis.store.INDEX_SECONDS", 60)
    url = store_url(request.param, request.getfixturevalue)
    async with AsyncExitStack() as stack:

        def open_(**options):
            store = open_store(url, **options)
            stack.push_async_callback(store.close)
            return store

        yield open_


@pytest.fixture
async def store(opening):
    return opening(ttl=60)
