"""What only the memory store promises; what all do is in tests/integration/test_stores.py."""

import asyncio
import time

import pytest
import torch

from lookonce_cache import ContextTooLargeError, MemoryStore, NodeUsage, StoreObserver

from ...support.cache_samples import assert_same, context_key, make_context

pytestmark = pytest.mark.anyio

SIZE = make_context().nbytes


async def test_it_drops_the_least_recently_used():
    store = MemoryStore(max_bytes=3 * SIZE)
    for name in "abc":
        await store.put(make_context(name))
    await store.get(context_key("a"))
    await store.info(context_key("b"))
    await store.state(context_key("b"))
    await store.list("acme")
    await store.put(make_context("d"))
    assert {info.key for info in (await store.list("acme")).infos} == {context_key(name) for name in "dac"}
    assert store.used_bytes == 3 * SIZE


async def test_what_it_drops_by_itself_is_reported_with_its_age_and_idle_time():
    evictions = []

    class Ages(StoreObserver):
        def evicted(self, store, reason, lifetime, idle):
            evictions.append((store, reason, lifetime, idle))

    store = MemoryStore(max_bytes=2 * SIZE, observer=Ages())
    started = time.monotonic()
    await store.put(make_context("a"))
    await store.put(make_context("a"))  # replaced and deleted ones are not evicted
    await store.put(make_context("b"))
    await store.delete(context_key("b"))
    await asyncio.sleep(0.02)
    await store.get(context_key("a"))
    used = time.monotonic()
    await store.put(make_context("b"))
    await store.put(make_context("c"), ttl=0.001)
    await asyncio.sleep(0.002)
    assert (await store.usage())[0] == NodeUsage("memory", "", SIZE, 2 * SIZE)
    ended = time.monotonic()
    (room, expired) = evictions
    assert (room[:2], expired[:2]) == (("memory", "room"), ("memory", "expired"))
    assert 0.02 <= room[2] <= ended - started
    assert 0 <= room[3] <= ended - used + 0.02
    assert room[3] < room[2]


async def test_tenants_share_the_budget():
    store = MemoryStore(max_bytes=2 * SIZE)
    for tenant in "abc":
        await store.put(make_context(tenant=tenant))
    assert [(await store.stats(tenant)).contexts for tenant in "abc"] == [0, 1, 1]
    assert (await store.stats("b")).bytes == SIZE


async def test_it_accounts_exactly():
    store = MemoryStore(max_bytes=3 * SIZE)
    await store.put(make_context("a"))
    await store.put(make_context("a"))
    assert store.used_bytes == SIZE
    cells = 12 + SIZE // 4
    await store.put(make_context("a", scores=torch.rand(cells), grid=(1, cells)))
    assert store.used_bytes == 2 * SIZE
    await store.put(make_context("b"))
    await store.delete(context_key("a"))
    assert store.used_bytes == SIZE
    await store.close()
    assert store.used_bytes == 0


async def test_it_refuses_what_exceeds_the_budget_and_keeps_the_rest():
    store = MemoryStore(max_bytes=SIZE)
    await store.put(make_context("a"))
    lease = await store.lease(context_key("a"), 60)
    keys = torch.zeros(2, 3, 8, 4)
    for under in (None, lease):
        with pytest.raises(ContextTooLargeError, match=f"exceeds max_bytes={SIZE}"):
            await store.put(make_context("a", keys=keys, values=keys), under)
    assert_same((await store.get(context_key("a"))).context, make_context("a"))
    assert await store.renew(lease, 60)


async def test_it_frees_what_expired():
    store = MemoryStore(max_bytes=10 * SIZE, ttl=0.05)
    await store.put(make_context("a"))
    await store.lease(context_key("b"), 0.05)
    deadline = time.monotonic() + 20
    while store.used_bytes or store._leases:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
        await store.list("nobody")


async def test_it_does_not_hold_what_a_view_was_cut_from():
    whole = torch.randn(2, 3, 7000, 4)
    store = MemoryStore(max_bytes=2 * SIZE)
    await store.put(make_context(keys=whole[:, :, :7], values=whole[:, :, 7:14], states={"conv": whole[0, 0, :2]}))
    state = (await store.get(context_key())).context.states["conv"]
    assert (state.untyped_storage().nbytes(), state.tolist()) == (2 * 4 * 4, whole[0, 0, :2].tolist())
    held = (await store.get(context_key())).context.keys.dequantize()
    assert held.untyped_storage().nbytes() == held.nbytes
    assert torch.equal(held, whole[:, :, :7])


async def test_using_or_deleting_what_a_page_showed_shows_nothing_twice(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)  # a clock too coarse to tell them apart
    store = MemoryStore()
    for name in range(9):
        await store.put(make_context(name))
    shown, after = [], None
    while True:
        page = await store.list("acme", limit=2, after=after)
        shown += [info.key for info in page.infos]
        for info in page.infos:
            await store.get(info.key)
        await store.delete(page.infos[-1].key)
        after = page.next
        if after is None:
            break
    assert sorted(shown) == sorted(map(context_key, range(9)))
