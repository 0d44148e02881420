"""One suite for every store."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
import torch
from tests.unit.cache.samples import assert_same, context_key, make_context

from lookonce_cache import (
    PRECISIONS,
    ContextInfo,
    ContextKey,
    Found,
    LeaseLostError,
    StoreStats,
    open_store,
)
from lookonce_cache.store import MAX_LISTED

from .stores import PATIENTLY, Listener, acl_url, eventually

pytestmark = pytest.mark.anyio

KEY = context_key()
OTHER_TENANT = context_key(tenant="globex")  # for the same image
HOT = "&hot_bytes=64MiB"


URLS = {
    "memory": lambda request, server: "memory://",
    "TCP": lambda request, server: server().url + PATIENTLY,
    "unix socket": lambda request, server: server().socket_url + PATIENTLY,
    "TLS": lambda request, server: (
        f"rediss://127.0.0.1:{request.getfixturevalue('tls_port')}/0{PATIENTLY}"
        f"&ssl_ca_certs={request.getfixturevalue('certificate').path}"
    ),
    "ACL user": lambda request, server: acl_url(server()) + PATIENTLY,
    "cluster": lambda request, server: request.getfixturevalue("redis_cluster").url + PATIENTLY,
    "tiered": lambda request, server: server().url + PATIENTLY + HOT,
    "tiered cluster": lambda request, server: request.getfixturevalue("redis_cluster").url + PATIENTLY + HOT,
}


@pytest.fixture(params=URLS)
async def opening(request):
    """A function that opens the store under test with given options; what it opened is closed at the end."""
    url = URLS[request.param](request, lambda: request.getfixturevalue("redis_server"))
    async with AsyncExitStack() as stack:

        def open_(**options):
            store = open_store(url, **options)
            stack.push_async_callback(store.close)
            return store

        yield open_


@pytest.fixture
async def store(opening):
    return opening(ttl=60)


async def listed(store, tenant="acme", **options):
    """The ids on every page, in order."""
    ids, after = [], None
    while True:
        page = await store.list(tenant, after=after, **options)
        ids += [info.key.id for info in page.infos]
        if page.next is None:
            return ids
        after = page.next


async def put_all(store, names):
    await asyncio.gather(*(store.put(make_context(name)) for name in names))
    return sorted(context_key(name).id for name in names)


async def everything(store, key):
    """What the store tells about a key and its tenant, without a moment in time."""
    info = await store.info(key)
    return (
        await store.get(key) is not None,
        await store.touch(key),
        info and info.description,
        await store.state(key),
        await listed(store, key.tenant),
        (await store.stats(key.tenant)).contexts,
    )


# ---- contexts


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
async def test_round_trip(store, precision, dtype):
    tensors = {role: torch.randn(2, 3, 7, 16).to(dtype) for role in ("keys", "values")}
    context = make_context(precision=precision, **tensors)
    await store.put(context)
    found = await store.get(context.key)
    assert isinstance(found, Found)
    assert found.tier in ("memory", store.tier)
    assert_same(found.context, context)


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


@pytest.mark.parametrize("use", ["get", "put", "touch"])
async def test_use_puts_expiry_off(store, use):
    await store.put(make_context())
    first = (await store.info(KEY)).expires_at

    async def later():
        await getattr(store, use)(make_context() if use == "put" else KEY)
        return (await store.info(KEY)).expires_at > first + 0.1

    await eventually(later)


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
    ids = await put_all(store, range(150))
    for limit in (7, 50, 150, 151):
        assert sorted(await listed(store, limit=limit)) == ids, limit
    first = await store.list("acme")
    assert len(first.infos) == 100
    assert first.next is not None
    second = await store.list("acme", after=first.next)
    assert len(second.infos) == 50
    assert second.next is None


async def test_a_list_of_none(store):
    await store.put(make_context())
    assert (await store.list("acme", limit=0)).infos == ()


@pytest.mark.parametrize("after", ["", "garbage", "1:2", "0", "-inf", "nan", "é" * 1000, "\0", "1e999:" + "f" * 64])
async def test_a_cursor_that_no_store_gave_out_lists_from_the_start(store, after):
    ids = await put_all(store, range(3))
    page = await store.list("acme", after=after)
    assert sorted(info.key.id for info in page.infos) == ids


async def test_pages_while_contexts_are_used_deleted_and_put(store):
    ids = await put_all(store, range(30))
    page = await store.list("acme", limit=10)
    shown = [info.key.id for info in page.infos]
    await store.touch(ContextKey("acme", shown[-1]))
    await store.get(ContextKey("acme", shown[4]))
    await store.delete(ContextKey("acme", shown[0]))
    await store.put(make_context("new"))
    while page.next is not None:
        page = await store.list("acme", limit=10, after=page.next)
        shown += [info.key.id for info in page.infos]
    rest = [id_ for id_ in shown if id_ != context_key("new").id]
    assert sorted(rest) == ids


async def test_a_page_has_a_limit_whatever_was_asked_for(store):
    ids = await put_all(store, range(MAX_LISTED + 1))
    page = await store.list("acme", limit=10 * MAX_LISTED)
    assert len(page.infos) == MAX_LISTED
    last = await store.list("acme", limit=10 * MAX_LISTED, after=page.next)
    assert sorted(info.key.id for info in page.infos + last.infos) == ids
    assert last.next is None


async def test_stats(store):
    assert await store.stats("acme") == StoreStats(0, 0, None, None)
    before = time.time()
    await store.put(make_context("first"))
    one = await store.stats("acme")
    await store.put(make_context("second"))
    await store.put(make_context("second"))
    two = await store.stats("acme")
    assert (one.contexts, two.contexts) == (1, 2)
    assert make_context().nbytes <= one.bytes
    assert two.bytes == 2 * one.bytes
    # The store's clock may be another than ours.
    assert before - 1 <= two.oldest <= two.newest <= time.time() + 1
    await store.delete(context_key("first"))
    assert (await store.stats("acme")).bytes == one.bytes
    await store.delete(context_key("second"))
    assert await store.stats("acme") == StoreStats(0, 0, None, None)


# ---- tenants


async def test_a_tenant_sees_nothing_of_another_ones_context_of_the_same_image(store):
    await store.put(make_context())
    assert await everything(store, OTHER_TENANT) == (False, False, None, "absent", [], 0)
    assert await store.get(ContextKey("globex", KEY.id)) is None
    assert await store.info(ContextKey("globex", KEY.id)) is None
    assert await store.stats("globex") == StoreStats(0, 0, None, None)
    cursor = (await store.list("acme", limit=1)).next
    assert await store.list("globex", after=cursor or KEY.id) == ((), None)


async def test_a_tenant_changes_nothing_of_another_ones(store):
    await store.put(make_context())
    for key in (OTHER_TENANT, ContextKey("globex", KEY.id)):
        assert await store.delete(key) is False
        assert await store.touch(key) is False
    await store.put(make_context(tenant="globex", description="another"))
    assert_same((await store.get(KEY)).context, make_context())
    await store.delete(OTHER_TENANT)
    assert await everything(store, KEY) == (True, True, make_context().description, "kept", [KEY.id], 1)


async def test_tenants_whose_names_begin_alike(store):
    names = ("a", "a.b", "a-b", "a_b", "A", "ab", "0" * 64)
    for name in names:
        await store.put(make_context(tenant=name))
    for name in names:
        assert await listed(store, name) == [context_key(tenant=name).id]


async def test_a_tenant_leases_what_another_one_has_leased(store):
    for tenant in ("acme", "globex"):
        assert await store.lease(context_key(tenant=tenant), 60)
    assert await store.delete(OTHER_TENANT) is False
    assert await store.state(OTHER_TENANT) == "absent"
    assert await store.state(KEY) == "leased"


# ---- leases


async def test_one_at_a_time_has_the_lease(store):
    leases = await asyncio.gather(*(store.lease(KEY, 60) for _ in range(20)))
    assert sum(lease is not None for lease in leases) == 1
    assert await store.lease(context_key("other"), 60)


async def test_a_lease_that_ends_is_free(store):
    lease = await store.lease(KEY, 60)
    await store.release(lease)
    assert await store.state(KEY) == "absent"
    assert await store.lease(KEY, 60)


async def test_a_lease_expires(store):
    lease = await store.lease(KEY, 0.1)

    async def free():
        return await store.lease(KEY, 60)

    await eventually(free)
    assert not await store.renew(lease, 60)
    with pytest.raises(LeaseLostError):
        await store.put(make_context(), lease)
    assert await store.get(KEY) is None
    assert await store.state(KEY) == "leased"


async def test_a_lease_that_is_renewed_is_held(store):
    lease = await store.lease(KEY, 0.3)
    assert await store.renew(lease, 60)
    await asyncio.sleep(0.6)
    assert await store.lease(KEY, 60) is None
    assert await store.renew(lease, 0.1)

    async def free():
        return await store.state(KEY) == "absent"

    await eventually(free)
    assert not await store.renew(lease, 60)
    assert await store.state(KEY) == "absent"


async def test_only_its_holder_ends_or_renews_a_lease(store):
    lost = await store.lease(KEY, 60)
    await store.release(lost)
    held = await store.lease(KEY, 60)
    await store.release(lost)
    assert not await store.renew(lost, 60)
    with pytest.raises(LeaseLostError):
        await store.put(make_context(), lost)
    assert await store.state(KEY) == "leased"
    assert await store.renew(held, 60)


async def test_a_put_ends_the_lease_it_was_made_under(store):
    lease = await store.lease(KEY, 60)
    await store.put(make_context(), lease)
    assert_same((await store.get(KEY)).context, make_context())
    assert await store.state(KEY) == "kept"
    assert not await store.renew(lease, 60)
    with pytest.raises(LeaseLostError):
        await store.put(make_context(), lease)
    assert await store.lease(KEY, 60)


async def test_a_put_under_a_lease_replaces_and_expires_like_any_other(store):
    await store.put(make_context(description="old"))
    await store.put(make_context(), await store.lease(KEY, 60))
    assert_same((await store.get(KEY)).context, make_context())
    assert time.time() + 50 < (await store.info(KEY)).expires_at < time.time() + 61
    assert await listed(store) == [KEY.id]


async def test_a_put_under_a_lost_lease_changes_nothing(store):
    await store.put(make_context(description="old"))
    lost = await store.lease(KEY, 60)
    await store.release(lost)
    with pytest.raises(LeaseLostError):
        await store.put(make_context(), lost)
    assert_same((await store.get(KEY)).context, make_context(description="old"))
    assert (await store.stats("acme")).contexts == 1


async def test_a_delete_breaks_the_lease(store):
    lease = await store.lease(KEY, 60)
    assert await store.delete(KEY) is False
    assert await store.state(KEY) == "absent"
    with pytest.raises(LeaseLostError):
        await store.put(make_context(), lease)
    assert await everything(store, KEY) == (False, False, None, "absent", [], 0)
    assert await store.lease(KEY, 60)


async def test_a_put_without_a_lease_leaves_somebody_elses(store):
    lease = await store.lease(KEY, 60)
    await store.put(make_context(description="by hand"))
    assert await store.state(KEY) == "kept"
    await store.put(make_context(), lease)
    assert_same((await store.get(KEY)).context, make_context())


async def test_a_lease_is_no_context(store):
    await store.lease(KEY, 60)
    assert await store.state(KEY) == "leased"
    assert await store.get(KEY) is None
    assert await store.touch(KEY) is False
    assert await store.info(KEY) is None
    assert await listed(store) == []
    assert (await store.stats("acme")).contexts == 0


# ---- at once


async def test_many_at_once(store):
    contexts = [make_context(name) for name in range(20)]

    async def use(context):
        for _ in range(5):
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
            assert context.keys.dense().unique().tolist() == context.values.dense().unique().tolist()

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
        await store.put(make_context(), lease)
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
