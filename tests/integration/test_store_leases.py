"""One suite for every store: tenants and leases."""

import asyncio
import time

import pytest

from lookonce_cache import ContextKey, LeaseLostError, StoreStats

from ..support.cache_samples import assert_same, context_key, make_context
from ..support.stores import eventually, everything, listed

pytestmark = pytest.mark.anyio

KEY = context_key()
OTHER_TENANT = context_key(tenant="globex")  # for the same image


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
        await store.put(make_context(description="again"), lease)
    assert_same((await store.get(KEY)).context, make_context())
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


# ---- a lease that has merely expired


async def expired(store, key=KEY):
    """A lease that was taken, and ran out."""
    lease = await store.lease(key, 0.05)

    async def is_over():
        return await store.state(key) == "absent"

    await eventually(is_over)
    return lease


async def test_a_put_under_a_lease_that_has_merely_expired_is_taken(store):
    lease = await expired(store)
    await store.put(make_context(), lease)
    assert_same((await store.get(KEY)).context, make_context())
    assert time.time() + 50 < (await store.info(KEY)).expires_at < time.time() + 61
    assert await listed(store) == [KEY.id]
    assert await store.state(KEY) == "kept"


async def test_a_lease_that_has_expired_is_not_renewed_and_keeps_nobody_from_the_next(store):
    lease = await expired(store)
    assert not await store.renew(lease, 60)
    await store.release(lease)
    assert await store.state(KEY) == "absent"
    assert await store.lease(KEY, 60)


async def test_what_was_deleted_after_a_lease_had_expired_does_not_come_back(store):
    for was_there in (False, True):
        lease = await expired(store)
        if was_there:
            await store.put(make_context())
        assert await store.delete(KEY) is was_there
        with pytest.raises(LeaseLostError):
            await store.put(make_context(), lease)
        assert await everything(store, KEY) == (False, False, None, "absent", [], 0)


async def test_once_the_next_one_was_taken_a_lease_that_has_expired_is_lost(store):
    lost = await expired(store)
    next_one = await expired(store)
    with pytest.raises(LeaseLostError):
        await store.put(make_context(description="of the first"), lost)
    assert await store.state(KEY) == "absent"
    await store.put(make_context(), next_one)
    assert_same((await store.get(KEY)).context, make_context())


async def test_what_was_put_after_a_lease_had_expired_stays(store):
    lost = await expired(store)
    await store.put(make_context())
    with pytest.raises(LeaseLostError):
        await store.put(make_context(description="of the first"), lost)
    assert_same((await store.get(KEY)).context, make_context())
