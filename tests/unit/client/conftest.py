"""A server to talk to, and both clients, which pass the same tests."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import lookonce

from ...support.blocking import Blocking
from .contract_server import CONTEXT_ID, PNG, ContractServer


@pytest.fixture
def server() -> Iterator[ContractServer]:
    with ContractServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    """Retries come at once."""
    monkeypatch.setattr("lookonce._server.FIRST_DELAY_SECONDS", 0.001)


@pytest.fixture(params=[lookonce.Client, lookonce.AsyncClient], ids=["sync", "async"])
def connect(request, server: ContractServer) -> Iterator[Callable[..., Any]]:
    """Makes clients, of either kind, which are closed at the end."""
    with ExitStack() as stack:

        def connect(url: str = server.url, **options: Any) -> Any:
            client = request.param(url, **options)
            if request.param is lookonce.AsyncClient:
                client = Blocking(client, stack.enter_context(asyncio.Runner()))
            return stack.enter_context(client)

        yield connect


@pytest.fixture
def client(connect: Callable[..., Any]) -> Any:
    """A client of the server, which asks once."""
    return connect(max_retries=0)


@pytest.fixture
def png() -> bytes:
    """The bytes of something that starts as a PNG file does."""
    return PNG


@pytest.fixture
def context_id() -> str:
    """The id of the only context that the server makes."""
    return CONTEXT_ID
