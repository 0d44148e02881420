"""What of a proxy's headers is believed, and of whom."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from lookonce_server.errors import StartError
from lookonce_server.http.protocol.connection import RefusalLog
from lookonce_server.lifecycle import Lifecycle
from lookonce_server.metrics import Metrics
from lookonce_server.server import Server
from lookonce_server.settings import Settings

pytestmark = pytest.mark.anyio
FORWARDED = {"x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https"}


async def telling(scope, receive, send) -> None:
    """An app that answers with what it knows of the client."""
    body = json.dumps({"client": scope["client"][0], "scheme": scope["scheme"]}).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(app, **settings) -> AsyncIterator[str]:
    listens = asyncio.get_running_loop().create_future()
    refusals = RefusalLog(Metrics())
    server = Server(
        app, Settings(port=0, **settings), refusals=refusals, lifecycle=Lifecycle(), on_listening=listens.set_result
    )
    running = asyncio.create_task(server.serve())
    try:
        yield await listens
    finally:
        server.should_exit = True
        await running


@pytest.mark.parametrize(
    ("trusted", "believed"), [((), False), (("10.0.0.0/8",), False), (("10.0.0.1", "127.0.0.0/8"), True)]
)
async def test_forwarded_headers_are_believed_of_proxies_that_are_named(trusted, believed):
    async with serving(telling, forwarded_allow_ips=trusted) as url, httpx2.AsyncClient(trust_env=False) as client:
        told = (await client.get(url, headers=FORWARDED)).json()
    expected = ("203.0.113.7", "https") if believed else ("127.0.0.1", "http")
    assert (told["client"], told["scheme"]) == expected


async def test_a_port_in_use_ends_the_start_with_a_line():
    async with serving(telling) as url:
        port = int(url.rpartition(":")[2])
        refusals = RefusalLog(Metrics())
        server = Server(telling, Settings(port=port), refusals=refusals, lifecycle=Lifecycle(), on_listening=print)
        with pytest.raises(StartError, match=f"--port {port}: it is in use on 127.0.0.1 already"):
            await server.serve()
