"""Real servers, each started once a session and shared by every module that asks for the same arguments."""

import atexit
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import openai
import pytest

from lookonce_torch import install

from .support.http_requests import delete_contexts
from .support.server_process import ENGINES, LookonceServer

install()  # before any test imports transformers, which reads where it keeps checkpoints' code
MODULES = tempfile.TemporaryDirectory(prefix="lookonce-modules-")
atexit.register(MODULES.cleanup)
os.environ["HF_MODULES_CACHE"] = MODULES.name

Servers = Callable[..., LookonceServer]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests in one process, and all of vLLM in one, first: to start it takes long."""
    for item in items:
        is_vllm = "/vllm_engine/" in item.nodeid or "[vllm" in item.nodeid
        item.add_marker(pytest.mark.xdist_group("vllm" if is_vllm else item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args != ("vllm",))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """One event loop a session: an engine belongs to the loop it was made in."""
    return "asyncio"


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Return a running server with the given arguments, the same one whenever they are the same.

    Whoever asks leaves it running, and isolates by pictures of their own, by a tenant, and by differences of metrics.
    """
    with ExitStack() as stack:
        running: dict[tuple[str, ...], LookonceServer] = {}

        def server_with(*arguments: str) -> LookonceServer:
            if arguments not in running:
                running[arguments] = stack.enter_context(LookonceServer(*arguments))
            return running[arguments]

        yield server_with


@pytest.fixture(scope="session", params=["transformers", pytest.param("vllm", marks=pytest.mark.extended)])
def engine_arguments(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return what chooses an engine on the command line."""
    return ENGINES[request.param]


@pytest.fixture(scope="module")
def embedded(servers: Servers) -> LookonceServer:
    """Return the server with the embedded engine and the defaults, and no contexts."""
    return delete_contexts(servers())


@pytest.fixture(scope="module")
def server(servers: Servers, engine_arguments: tuple[str, ...]) -> LookonceServer:
    """Return a server that keeps contexts in memory and has none yet; each test runs with both engines."""
    return delete_contexts(servers(*engine_arguments))


@pytest.fixture(scope="module")
def client(server: LookonceServer) -> Iterator[openai.OpenAI]:
    """Give OpenAI's own client of that server."""
    with server.openai() as client:
        yield client
