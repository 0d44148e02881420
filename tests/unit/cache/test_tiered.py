import asyncio

import pytest

from lookonce_cache import LeaseLostError, MemoryStore, StoreObserver, StoreUnavailableError
from lookonce_cache.stores.tiered import TieredStore

from ...support.cache_samples import assert_same, context_key, make_context

pytestmark = pytest.mark.anyio

KEY = context_key()
SIZE = make_context().nbytes


class SharedStore(MemoryStore):
    """A memory store in the place of a shared one: it can be away, and gets and puts can be held up."""

    tier = "shared"

    def __init__(self, **options):
        super().__init__(**options)
        self.is_away = False
        self.gets = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def check(self):
        if self.is_away:
            raise StoreUnavailableError("the shared store is away")

    async def get(self, key, **options):
        self.check()
        self.gets += 1
        found = await super().get(key, **options)
        await self.gate.wait()
        self.check()
        return found

    async def put(self, context, lease=None, **options):
        self.check()
        await super().put(context, lease, **options)

    async def touch(self, key, **options):
        self.check()
        return await super().touch(key, **options)

    async def delete(self, key):
        self.check()
        was_there = await super().delete(key)
        await self.gate.wait()
        return was_there


@pytest.fixture
async def hot():
    return MemoryStore(max_bytes=3 * SIZE)


@pytest.fixture
async def shared():
    return SharedStore()


@pytest.fixture
async def store(hot, shared):
    return TieredStore(hot, shared)


async def is_hot(hot):
    return await hot.info(KEY) is not None


async def begun(call):
    """The call as a task that has gone as far as it can."""
    task = asyncio.ensure_future(call)
    for _ in range(10):
        await asyncio.sleep(0)
    return task


async def test_a_put_is_in_both_tiers(store, hot, shared):
    await store.put(make_context())
    assert_same((await hot.get(KEY)).context, make_context())
    assert_same((await shared.get(KEY)).context, make_context())


async def test_a_get_fills_the_hot_tier_and_names_the_tier_that_answered(store, hot, shared):
    await shared.put(make_context())
    first, second = await store.get(KEY), await store.get(KEY)
    assert (first.tier, second.tier, shared.gets) == ("shared", "memory", 1)
    assert_same(first.context, make_context())
    assert_same(second.context, make_context())
    assert store.tier == "shared"


async def test_what_is_larger_than_the_hot_tier_is_not_hot(shared):
    hot = MemoryStore(max_bytes=SIZE - 1)
    store = TieredStore(hot, shared)
    await store.put(make_context())
    assert (await store.get(KEY)).tier == "shared"
    assert hot.used_bytes == 0


async def test_what_becomes_larger_than_the_hot_tier_is_no_longer_hot(shared):
    hot = MemoryStore(max_bytes=SIZE)
    store = TieredStore(hot, shared)
    await store.put(make_context())
    larger = make_context(description="larger", scores=make_context().scores.repeat(2), grid=(6, 4))
    await store.put(larger)
    assert hot.used_bytes == 0
    assert_same((await store.get(KEY)).context, larger)


async def test_the_hot_tier_drops_what_was_used_longest_ago(store, hot, shared):
    for name in range(4):
        await store.put(make_context(name))
    assert hot.used_bytes == 3 * SIZE
    assert (await store.get(context_key(0))).tier == "shared"


async def test_what_another_server_deleted_is_a_miss_and_no_longer_hot(store, hot, shared):
    await store.put(make_context())
    await shared.delete(KEY)
    assert await store.get(KEY) is None
    assert hot.used_bytes == 0


@pytest.mark.parametrize("use", ["get", "touch"])
async def test_using_what_is_hot_counts_as_use_in_the_shared_store(hot, shared, use):
    shared = SharedStore(max_bytes=2 * SIZE)
    store = TieredStore(hot, shared)
    await store.put(make_context())
    await store.put(make_context("other"))
    await getattr(store, use)(KEY)
    await store.put(make_context("third"))
    assert await shared.info(KEY) is not None


async def test_touching_what_is_not_hot_does_not_load_it(store, hot, shared):
    await shared.put(make_context())
    assert await store.touch(KEY)
    assert not await store.touch(context_key("other"))
    assert (shared.gets, hot.used_bytes) == (0, 0)


async def test_touching_what_another_server_deleted(store, hot, shared):
    await store.put(make_context())
    await shared.delete(KEY)
    assert not await store.touch(KEY)
    assert hot.used_bytes == 0


async def test_delete_is_in_both_tiers(store, hot, shared):
    await store.put(make_context())
    assert await store.delete(KEY)
    assert not await store.delete(KEY)
    assert hot.used_bytes == shared.used_bytes == 0


async def test_a_put_whose_lease_was_lost_changes_neither_tier(store, hot, shared):
    lease = await store.lease(KEY, 60)
    await store.delete(KEY)
    with pytest.raises(LeaseLostError):
        await store.put(make_context(), lease)
    assert hot.used_bytes == shared.used_bytes == 0


# ---- the shared store is away


async def test_what_is_hot_is_served_while_the_shared_store_is_away(store, shared):
    await store.put(make_context())
    shared.is_away = True
    assert_same((await store.get(KEY)).context, make_context())
    assert await store.touch(KEY)


async def test_what_is_not_hot_is_an_error_while_the_shared_store_is_away(store, shared):
    await shared.put(make_context())
    shared.is_away = True
    for call in (store.get(KEY), store.touch(KEY)):
        with pytest.raises(StoreUnavailableError):
            await call


async def test_a_put_while_the_shared_store_is_away_is_an_error_and_hot_until_it_is_back(store, hot, shared):
    shared.is_away = True
    with pytest.raises(StoreUnavailableError):
        await store.put(make_context())
    assert_same((await store.get(KEY)).context, make_context())
    shared.is_away = False
    assert await store.get(KEY) is None
    assert hot.used_bytes == 0


async def test_a_delete_while_the_shared_store_is_away_is_an_error_and_no_longer_hot(store, hot, shared):
    await store.put(make_context())
    shared.is_away = True
    with pytest.raises(StoreUnavailableError):
        await store.delete(KEY)
    assert hot.used_bytes == 0


# ---- at once


async def test_gets_at_once_are_one_get_of_the_shared_store(store, shared):
    await shared.put(make_context())
    shared.gate.clear()
    gets = [await begun(store.get(KEY)) for _ in range(50)]
    shared.gate.set()
    for found in await asyncio.gather(*gets):
        assert_same(found.context, make_context())
    assert shared.gets == 1


async def test_gets_at_once_of_different_contexts_are_a_get_each(store, shared):
    await shared.put(make_context("other"))
    shared.gate.clear()
    one = await begun(store.get(KEY))
    other = await begun(store.get(context_key("other")))
    shared.gate.set()
    assert await one is None
    assert shared.gets == 2
    assert_same((await other).context, make_context("other"))


async def test_gets_at_once_all_see_the_error(store, shared):
    shared.gate.clear()
    gets = [await begun(store.get(KEY)) for _ in range(3)]
    shared.is_away = True
    shared.gate.set()
    results = await asyncio.gather(*gets, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailableError] * 3
    shared.is_away = False
    assert await store.get(KEY) is None


async def test_a_cancelled_get_leaves_the_others_theirs(store, shared):
    await shared.put(make_context())
    shared.gate.clear()
    first, second = await begun(store.get(KEY)), await begun(store.get(KEY))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    shared.gate.set()
    assert_same((await second).context, make_context())
    assert shared.gets == 1


async def test_what_is_deleted_while_it_is_loaded_does_not_become_hot(store, hot, shared):
    await shared.put(make_context())
    shared.gate.clear()
    get = await begun(store.get(KEY))
    delete = await begun(store.delete(KEY))
    shared.gate.set()
    await asyncio.gather(get, delete)
    assert not await is_hot(hot)
    assert await store.get(KEY) is None


async def test_what_another_server_deletes_while_it_is_loaded_is_hot_until_the_next_get(store, hot, shared):
    await shared.put(make_context())
    shared.gate.clear()
    get = await begun(store.get(KEY))
    await MemoryStore.delete(shared, KEY)
    shared.gate.set()
    assert_same((await get).context, make_context())
    assert await is_hot(hot)
    assert await store.get(KEY) is None
    assert not await is_hot(hot)


async def test_what_is_replaced_while_it_is_loaded_stays_the_newer(store, shared):
    await shared.put(make_context())
    shared.gate.clear()
    get = await begun(store.get(KEY))
    newer = make_context(description="newer")
    await store.put(newer)
    after = await begun(store.get(KEY))
    shared.gate.set()
    await get
    assert_same((await after).context, newer)
    assert_same((await store.get(KEY)).context, newer)


async def test_closing_ends_loads(store, hot, shared):
    await store.put(make_context("other"))
    shared.gate.clear()
    get = await begun(store.get(KEY))
    await store.close()
    with pytest.raises(asyncio.CancelledError):
        await get
    assert hot.used_bytes == shared.used_bytes == 0


# ---- what is told


async def test_each_tier_reports_its_own_calls():
    told = []

    class Listener(StoreObserver):
        def operation(self, store, operation, outcome, seconds):
            told.append((store, operation, outcome))

    store = TieredStore(MemoryStore(observer=Listener()), SharedStore(observer=Listener()))
    await store.get(KEY)
    await store.put(make_context())
    await store.get(KEY)
    assert told == [
        ("memory", "get", "miss"),
        ("shared", "get", "miss"),
        ("shared", "put", "ok"),
        ("memory", "put", "ok"),
        ("memory", "get", "ok"),
        ("shared", "touch", "ok"),
    ]
