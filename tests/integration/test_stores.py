"""One suite for every implementation of stores, and a short test for every other kind of URL."""

import asyncio
import itertools
import time
from contextlib import AsyncExitStack

import pytest
import torch

from lookonce_cache import (
    PRECISIONS,
    BlobKey,
    ContextInfo,
    ContextKey,
    LeaseLostError,
    StoreHit,
    StoreStats,
    open_store,
)

from ..support.cache_samples import assert_same, context_key, make_context
from ..support.stores import URL_VARIANTS, Listener, eventually, everything, listed, put_all, store_url

pytestmark = pytest.mark.anyio

KEY = context_key()


# ---- contexts


async def test_round_trip(store):
    for precision, dtype in itertools.product(PRECISIONS, (torch.float32, torch.bfloat16, torch.float16)):
        tensors = {role: torch.randn(2, 3, 7, 16).to(dtype) for role in ("keys", "values")}
        context = make_context(precision=precision, **tensors)
        await store.put(context)
        hit = await store.get(context.key)
        assert isinstance(hit, StoreHit)
        assert hit.tier in ("memory", store.tier)
        assert_same(hit.context, context)


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=pytest.mark.extended) if "cluster" in name else name for name in URL_VARIANTS]
)
async def test_every_kind_of_url_works(variant, request, monkeypatch):
    """All commands, in one go, and a value of many megabytes."""
    monkeypatch.setattr("lookonce_cache.stores.redis.store.INDEX_SECONDS", 60)
    async with AsyncExitStack() as stack:
        store = open_store(store_url(variant, request.getfixturevalue), ttl=60)
        stack.push_async_callback(store.close)
        await use_all(store)


async def use_all(store):
    await store.ping()
    keys = torch.randn(8, 8, 512, 128)
    large = make_context("large", keys=keys, values=-keys, full_tokens=600, kept_indices=torch.arange(12).int()[None])
    await store.put(large)
    assert_same((await store.peek(large.key)), large)
    lease = await store.lease(KEY, 60)
    assert (await store.state(KEY), await store.lease(KEY, 60)) == ("leased", None)
    assert await store.renew(lease, 60)
    await store.put(make_context(), lease)
    assert_same((await store.get(KEY)).context, make_context())
    assert await listed(store) == [KEY.id, large.key.id]
    assert (await store.stats("acme")).contexts == 2
    assert await everything(store, KEY) == (True, True, make_context().description, "kept", [KEY.id, large.key.id], 2)
    blob = BlobKey("acme", KEY.id)
    await store.records.write(blob, b"a blob")
    assert await store.records.read(blob) == b"a blob"
    assert await store.records.forget(blob) is True
    assert await store.delete(KEY) is True
    await store.release(await store.lease(KEY, 60))
    assert await everything(store, KEY) == (False, False, None, "absent", [large.key.id], 1)
    await asyncio.gather(*(store.put(make_context(name)) for name in range(20)))
    assert len(await listed(store)) == 21


async def test_a_context_of_many_megabytes(store):
    keys = torch.randn(8, 8, 512, 128)
    context = make_context(keys=keys, values=-keys, full_tokens=600, kept_indices=torch.arange(12).int()[None])
    await store.put(context)
    assert_same((await store.get(context.key)).context, context)
    assert (await store.info(context.key)).bytes == context.nbytes


async def test_missing(store):
    await store.put(make_context("another"))
    assert await store.get(KEY) is None
    assert await store.touch(KEY) is False
    assert await store.info(KEY) is None
    assert await store.delete(KEY) is False
    assert await store.state(KEY) == "absent"


async def test_the_last_put_wins(store):
    await store.put(make_context())
    second = make_context(description="second", keys=torch.ones(2, 3, 7, 4))
    await store.put(second)
    assert_same((await store.get(KEY)).context, second)
    assert (await store.info(KEY)).description == "second"
    assert await listed(store) == [KEY.id]
    assert (await store.stats("acme")).contexts == 1


async def test_delete(store):
    await store.put(make_context())
    await store.put(make_context("other"))
    assert await store.delete(KEY) is True
    assert await store.delete(KEY) is False
    assert await everything(store, KEY) == (False, False, None, "absent", [context_key("other").id], 1)
    assert_same((await store.get(context_key("other"))).context, make_context("other"))


async def test_what_was_deleted_can_be_put_again(store):
    for _ in range(3):
        await store.put(make_context())
        assert await store.delete(KEY)
    await store.put(make_context())
    assert_same((await store.get(KEY)).context, make_context())


async def test_contexts_expire(opening):
    store = opening(ttl=0.2)
    await store.put(make_context())

    async def gone():
        return await store.info(KEY) is None

    await eventually(gone)
    assert await everything(store, KEY) == (False, False, None, "absent", [], 0)
    assert await store.stats("acme") == StoreStats(0, 0, None, None)
    assert await store.delete(KEY) is False


async def test_without_a_ttl_contexts_stay(opening):
    store = opening(ttl=None)
    await store.put(make_context())
    assert await everything(store, KEY) == (True, True, make_context().description, "kept", [KEY.id], 1)
    assert (await store.info(KEY)).expires_at is None


async def test_use_puts_expiry_off(store):
    for use in ("get", "put", "touch"):
        await store.put(make_context(), ttl=30)
        assert (await store.info(KEY)).expires_at < time.time() + 31, use
        await getattr(store, use)(make_context() if use == "put" else KEY)
        assert (await store.info(KEY)).expires_at > time.time() + 50, use


async def test_a_use_may_give_a_ttl_of_its_own(store):
    async def seconds_left(use: str, **ttl: float) -> float:
        await getattr(store, use)(make_context() if use == "put" else KEY, **ttl)
        return (await store.info(KEY)).expires_at - time.time()

    await store.put(make_context())
    for use in ("get", "put", "touch"):
        assert 299 < await seconds_left(use, ttl=300) < 301, use
        assert 9 < await seconds_left(use, ttl=10) < 11, use
        assert 59 < await seconds_left(use) < 61, use


async def test_a_peek_is_no_use(store):
    await store.put(make_context("first"), ttl=300)
    context = await store.peek(context_key("first"))
    assert_same(context, make_context("first"))
    assert 299 < (await store.info(context.key)).expires_at - time.time() < 301
    assert await store.peek(context_key("second")) is None
    assert await store.peek(ContextKey("another", context.key.id)) is None


async def test_contexts_expire_in_any_order(opening):
    store = opening(ttl=60)
    await store.put(make_context("first"))
    await store.put(make_context("second"), ttl=0.2)
    await store.put(make_context("third"))

    async def gone():
        return await store.info(context_key("second")) is None

    await eventually(gone)
    assert await store.get(context_key("first"))
    assert await store.get(context_key("third"))


async def test_a_ttl_given_under_a_lease(opening):
    store = opening(ttl=None)
    lease = await store.lease(KEY, 60)
    await store.put(make_context(), lease, ttl=10)
    assert 9 < (await store.info(KEY)).expires_at - time.time() < 11


async def test_looking_does_not_put_expiry_off(opening):
    store = opening(ttl=0.5)
    await store.put(make_context())

    async def gone():
        await store.list("acme")
        await store.stats("acme")
        return await store.info(KEY) is None and await store.state(KEY) == "absent"

    await eventually(gone)


# ---- what is told of them


async def test_info(store):
    context = make_context()
    before = time.time()
    await store.put(context)
    info = await store.info(KEY)
    assert before + 59 < info.expires_at < time.time() + 61
    assert info == ContextInfo(
        key=KEY,
        model_fingerprint="model-1",
        description="ein rotes Fahrrad, 自行车 🚲",
        image_tokens=12,
        kept_tokens=3,
        tokens=9,
        bytes=context.nbytes,
        created_at=1_700_000_000.25,
        expires_at=info.expires_at,
        retention=0.25,
        selection="attention",
        precision="native",
    )


async def test_info_of_a_video(store):
    await store.put(make_context(grid=(3, 2, 2)))
    assert (await store.info(KEY)).frames == 3
    assert (await store.get(KEY)).context.grid == (3, 2, 2)


async def test_list_tells_the_same_as_info(store):
    await store.put(make_context())
    page = await store.list("acme")
    info = await store.info(KEY)
    assert page.next is None
    assert [(i.key, i.description, i.bytes, i.tokens) for i in page.infos] == [
        (KEY, info.description, info.bytes, info.tokens)
    ]
    assert abs(page.infos[0].expires_at - info.expires_at) < 10


async def test_pages_have_every_context_once(store):
    assert await listed(store) == []
    ids = await put_all(store, range(120))
    for limit in (50, 120):
        assert sorted(await listed(store, limit=limit)) == ids, limit
    first = await store.list("acme")
    assert len(first.infos) == 100
    assert first.next is not None
    second = await store.list("acme", after=first.next)
    assert len(second.infos) == 20
    assert second.next is None


async def test_pages_of_one_model_are_full(store):
    """Contexts of another model lie before, between and after them, more than are read at a time."""
    for name in range(9):
        await store.put(make_context(name))
        for other in range(16):
            await store.put(make_context((name, other), model_fingerprint="another"))
    first = await store.list("acme", limit=4, model="model-1")
    second = await store.list("acme", limit=5, after=first.next, model="model-1")
    assert (len(first.infos), len(second.infos), second.next) == (4, 5, None)
    assert {info.key.id for info in first.infos + second.infos} == {context_key(name).id for name in range(9)}
    assert len(await listed(store)) == 9 * 17
    assert (await store.list("acme", model="a third")) == ((), None)


async def test_a_list_of_none(store):
    await store.put(make_context())
    assert (await store.list("acme", limit=0)).infos == ()


async def test_a_cursor_that_no_store_gave_out_lists_from_the_start(store):
    ids = await put_all(store, range(3))
    for after in ("", "garbage", "1:2", "0", "-inf", "nan", "é" * 1000, "\0", "1e999:" + "f" * 64):
        page = await store.list("acme", after=after)
        assert sorted(info.key.id for info in page.infos) == ids, after


async def test_pages_while_others_are_used_deleted_and_put(store):
    ids = await put_all(store, range(30))
    page = await store.list("acme", limit=10)
    shown = [info.key.id for info in page.infos]
    await store.get(ContextKey("acme", shown[4]))
    await store.touch(ContextKey("acme", shown[-1]))
    await store.delete(ContextKey("acme", shown[-1]))
    await store.delete(ContextKey("acme", shown[0]))
    await store.put(make_context("new"))
    while page.next is not None:
        page = await store.list("acme", limit=10, after=page.next)
        shown += [info.key.id for info in page.infos]
    rest = [id_ for id_ in shown if id_ != context_key("new").id]
    assert sorted(rest) == ids


async def test_pages_while_those_still_to_come_are_used_have_none_twice(store):
    ids = await put_all(store, range(30))
    page = await store.list("acme", limit=10)
    shown = [info.key.id for info in page.infos]
    for id_ in ids[::2]:
        await store.touch(ContextKey("acme", id_))
    while page.next is not None:
        page = await store.list("acme", limit=10, after=page.next)
        shown += [info.key.id for info in page.infos]
    assert len(set(shown)) == len(shown)
    assert set(ids[1::2]) <= set(shown) <= set(ids)


async def test_a_page_has_a_limit_whatever_was_asked_for(store, monkeypatch):
    monkeypatch.setattr("lookonce_cache.stores.memory.MAX_LISTED", 20)
    monkeypatch.setattr("lookonce_cache.stores.redis.store.MAX_LISTED", 20)
    ids = await put_all(store, range(21))
    page = await store.list("acme", limit=1000)
    assert len(page.infos) == 20
    last = await store.list("acme", limit=1000, after=page.next)
    assert sorted(info.key.id for info in page.infos + last.infos) == ids
    assert last.next is None


async def test_stats(store):
    assert await store.stats("acme") == StoreStats(0, 0, None, None)
    before = time.time()
    await store.put(make_context("first"))
    one = await store.stats("acme")
    await asyncio.sleep(0.2)
    await store.put(make_context("second"))
    await store.put(make_context("second"))
    await store.touch(context_key("first"))
    two = await store.stats("acme")
    assert (one.contexts, two.contexts) == (1, 2)
    assert make_context().nbytes <= one.bytes
    assert two.bytes == 2 * one.bytes
    # The store's clock may be another than ours.
    assert before - 1 <= two.oldest < two.newest - 0.1 < time.time() + 1
    assert abs(two.oldest - one.oldest) < 0.01
    await store.delete(context_key("first"))
    assert (await store.stats("acme")).bytes == one.bytes
    await store.delete(context_key("second"))
    assert await store.stats("acme") == StoreStats(0, 0, None, None)


# ---- at once


async def test_many_at_once(store):
    contexts = [make_context(name) for name in range(20)]

    async def use(context):
        for _ in range(3):
            await store.put(context)
            assert_same((await store.get(context.key)).context, context)
            assert (await store.info(context.key)).key == context.key

    await asyncio.gather(*map(use, contexts * 3))
    assert len(await listed(store)) == 20


async def test_readers_see_one_whole_version_while_it_is_replaced(store):
    versions = [make_context(keys=torch.full((2, 3, 7, 4), n), values=torch.full((2, 3, 7, 4), n)) for n in (1.0, 2.0)]
    await store.put(versions[0])

    async def read():
        for _ in range(30):
            context = (await store.get(KEY)).context
            assert context.keys.dequantize().unique().tolist() == context.values.dequantize().unique().tolist()

    async def write():
        for version in versions * 15:
            await store.put(version)

    await asyncio.gather(read(), write(), read(), write())


# ---- what is reported


async def test_the_observer_is_told_of_every_call(opening, request):
    listener = Listener()
    store = opening(ttl=60, observer=listener)
    lease = await store.lease(KEY, 60)
    assert await store.lease(KEY, 60) is None
    await store.renew(lease, 60)
    await store.get(KEY)
    await store.touch(KEY)
    await store.info(KEY)
    await store.put(make_context(), lease)
    with pytest.raises(LeaseLostError):
        await store.put(make_context(description="again"), lease)
    await store.renew(lease, 60)
    await store.release(lease)
    await store.get(KEY)
    await store.touch(KEY)
    await store.info(KEY)
    await store.list("acme")
    await store.stats("acme")
    await store.state(KEY)
    await store.delete(KEY)
    await store.delete(KEY)
    await store.ping()
    is_tiered = "tiered" in request.node.callspec.id
    outcomes = """
        lease ok, lease miss, renew ok, get miss, touch miss, info miss, put ok, put refused, renew miss, release ok,
        get ok, touch ok, info ok, list ok, stats ok, state ok, delete ok, delete miss, ping ok"""
    expected = [tuple(outcome.split()) for outcome in outcomes.split(",")]
    if is_tiered:  # a hot context is only touched in Redis
        expected[10] = ("touch", "ok")
    assert listener.outcomes(store.tier) == expected
    assert all(call[3] >= 0 for call in listener.calls)
    told = {(tier, direction) for tier, direction, nbytes in listener.transfers if nbytes >= make_context().nbytes}
    read_from = "memory" if is_tiered else store.tier
    assert {(store.tier, "written"), (read_from, "read")} <= told
    assert (listener.damage, listener.breakers) == ([], [])


async def test_ping_and_tier(store):
    await store.ping()
    assert store.tier in ("memory", "redis")
