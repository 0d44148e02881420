import asyncio

import pytest

from lookonce_cache.stores.redis import breaker as breaker_module
from lookonce_cache.stores.redis.breaker import Breaker

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(breaker_module, "MIN_PAUSE", 0.001)
    monkeypatch.setattr(breaker_module, "MAX_PAUSE", 0.004)


class Server:
    """Probed by a breaker; works or not."""

    def __init__(self):
        self.works = False
        self.probes = 0
        self.changes = []
        self.probed = asyncio.Event()
        self.closed = asyncio.Event()

    def change(self, is_open):
        self.changes.append(is_open)
        if not is_open:
            self.closed.set()

    async def probe(self):
        self.probes += 1
        self.probed.set()
        if not self.works:
            raise ConnectionError("down")

    async def wait_for(self, event):
        event.clear()
        async with asyncio.timeout(10):
            await event.wait()


async def test_it_opens_once_and_closes_when_a_probe_finds_the_server_working():
    server = Server()
    breaker = Breaker(server.probe, server.change)
    assert not breaker.is_open
    breaker.open("the first reason")
    breaker.open("another reason")
    assert breaker.is_open
    assert breaker.reason == "the first reason"
    for _ in range(3):
        await server.wait_for(server.probed)
    assert breaker.is_open
    server.works = True
    await server.wait_for(server.closed)
    assert server.changes == [True, False]
    probes = server.probes
    await asyncio.sleep(0.02)
    assert server.probes == probes


async def test_it_opens_again():
    server = Server()
    server.works = True
    breaker = Breaker(server.probe, server.change)
    for _ in range(2):
        breaker.open("")
        await server.wait_for(server.closed)
    assert server.changes == [True, False, True, False]
    assert server.probes == 2


async def test_closing_it_ends_the_probes():
    server = Server()
    breaker = Breaker(server.probe, server.change)
    breaker.open("")
    await server.wait_for(server.probed)
    breaker.close()
    breaker.close()
    assert not breaker.is_open
    assert server.changes == [True, False]
    probes = server.probes
    await asyncio.sleep(0.02)
    assert server.probes == probes


async def test_stopping_it_leaves_no_task():
    before = asyncio.all_tasks()
    server = Server()
    breaker = Breaker(server.probe, server.change)
    await breaker.stop()
    breaker.open("")
    await breaker.stop()
    assert breaker.is_open
    assert asyncio.all_tasks() == before


async def test_pauses_between_probes_grow_to_a_limit(monkeypatch):
    pauses = []
    sleep = asyncio.sleep

    async def note(seconds):
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(breaker_module.asyncio, "sleep", note)
    monkeypatch.setattr(breaker_module, "MIN_PAUSE", 0.1)
    monkeypatch.setattr(breaker_module, "MAX_PAUSE", 2.0)
    server = Server()
    breaker = Breaker(server.probe, server.change)
    breaker.open("")
    for _ in range(8):
        await server.wait_for(server.probed)
    await breaker.stop()
    for pause, longest in zip(pauses, [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0], strict=False):
        assert longest / 2 <= pause <= longest
