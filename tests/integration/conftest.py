"""Real servers for the integration tests."""

from collections.abc import Iterator
from contextlib import AsyncExitStack

import openai
import pytest

from lookonce_cache import open_store

from ..support.network import Certificate, Network, make_certificate
from ..support.redis_cluster import RedisCluster
from ..support.redis_server import RedisServer, find_redis_server
from ..support.server_process import ENGINES, LookonceServer
from ..support.stores import IMPLEMENTATIONS, store_url


def pytest_report_header() -> str:
    try:
        binary, origin = find_redis_server()
    except FileNotFoundError as error:
        return f"redis-server: {error}"
    return f"redis-server: {binary}, from {origin}"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


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


@pytest.fixture(params=IMPLEMENTATIONS)
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


@pytest.fixture(scope="module", params=ENGINES)
def engine_arguments(request) -> tuple[str, ...]:
    """What chooses an engine on the command line."""
    return ENGINES[request.param]


@pytest.fixture(scope="module")
def server(engine_arguments) -> Iterator[LookonceServer]:
    """A running server of this module's own, which keeps contexts in memory; each test runs with both engines."""
    with LookonceServer(*engine_arguments) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: LookonceServer) -> Iterator[openai.OpenAI]:
    """OpenAI's own client of that server."""
    with server.openai() as talking:
        yield talking
