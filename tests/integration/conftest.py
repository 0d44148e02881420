"""Real servers for the integration tests."""

from collections.abc import Iterator

import pytest

from .redis_server import RedisServer, find_redis_server


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
    shared_redis_server.start()
    shared_redis_server.flush()
    return shared_redis_server
