"""What the caller of a store sees when Redis or the way to it fails. Each fault is a real one.

Time decides no test by a thin margin: what must be quick is compared with a bound ten times longer or more.
"""

import asyncio
import random
import time
from collections import Counter
from contextlib import asynccontextmanager

import pytest
import torch

from lookonce_cache import LeaseLostError, StoreUnavailableError, open_store

from ..support.cache_samples import assert_same, context_key, hex_digest, make_context
from ..support.network import Network
from ..support.redis_server import RedisServer
from ..support.stores import Listener, eventually

pytestmark = pytest.mark.anyio

KEY = context_key()
TIMEOUT = 2.0  # seconds that a call may take, unless a test says otherwise
SLOW = 1.0  # seconds: longer than any call that does not wait for a dead server, shorter than one that does
OPTIONS = f"timeout={TIMEOUT}&socket_timeout={TIMEOUT}&socket_connect_timeout=1"


@pytest.fixture
async def listener():
    return Listener()


@pytest.fixture
def network(redis_server):
    with Network(redis_server.port) as network:
        yield network


@asynccontextmanager
async def opened(url, listener, options=OPTIONS, **more):
    store = open_store(f"{url}?{options}", ttl=60, observer=listener, **more)
    try:
        yield store
    finally:
        await store.close()


def through(network):
    return f"redis://127.0.0.1:{network.port}/0"


def large(name="large", tokens=2000):
    """A context of about 1 KB a token, its numbers drawn from the name."""
    numbers = torch.Generator().manual_seed(int(hex_digest(name)[:8], 16))
    tensors = {role: torch.randn(2, 4, tokens, 16, generator=numbers) for role in ("keys", "values")}
    return make_context(name, full_tokens=tokens + 20, **tensors)


def works(store, context):
    """A condition: the store answers, and has the context or takes it."""

    async def check():
        try:
            found = await store.get(context.key)
            if found is None:
                await store.put(context)
        except StoreUnavailableError:
            return False
        if found is not None:
            assert_same(found.context, context)
        return True

    return check


async def fails(call, match=None):
    """The seconds it took to find out that the store is unavailable."""
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=match):
        await call
    return time.monotonic() - begun


# ---- the server dies


async def test_every_call_says_that_a_dead_server_is_unavailable_and_where(redis_server, listener):
    async with opened(redis_server.url, listener) as store:
        await store.put(make_context())
        lease = await store.lease(KEY, 60)
        redis_server.kill()
        calls = {
            "get": store.get(KEY),
            "put": store.put(make_context()),
            "touch": store.touch(KEY),
            "delete": store.delete(KEY),
            "info": store.info(KEY),
            "list": store.list("acme"),
            "stats": store.stats("acme"),
            "lease": store.lease(KEY, 60),
            "renew": store.renew(lease, 60),
            "release": store.release(lease),
            "state": store.state(KEY),
            "ping": store.ping(),
        }
        for call in calls.values():
            await fails(call, rf"Redis at 127\.0\.0\.1:{redis_server.port}/0")
        assert {name for name, outcome in listener.outcomes("redis") if outcome == "error"} == set(calls)
        redis_server.start()
        await eventually(works(store, make_context()))


async def test_a_dead_server_costs_one_call_some_time_and_the_others_none(redis_server, listener):
    async with opened(redis_server.url, listener) as store:
        redis_server.kill()
        took = [await fails(store.get(KEY)) for _ in range(200)]
        assert sum(seconds > SLOW for seconds in took) <= 1
        assert listener.breakers == [True]
        assert listener.outcomes("redis") == [("get", "error")] * 200
        redis_server.start()
        await eventually(works(store, make_context()))
        assert listener.breakers == [True, False]


async def test_a_restart_between_two_calls_is_not_noticed(redis_server, listener):
    async with opened(redis_server.url, listener, "timeout=60&socket_timeout=60") as store:
        await store.ping()
        redis_server.restart()
        await store.put(make_context())
    assert listener.breakers == []


async def test_killed_and_restarted_under_load(redis_server, listener):
    """Every answer is right, a miss or an error; and a new store is never needed."""
    contexts = [large(name, 300) for name in range(6)]
    seen = Counter()
    is_over = False

    async def use(context):
        while not is_over:
            try:
                found = await store.get(context.key)
                if found is None:
                    await store.put(context)
            except StoreUnavailableError:
                seen["error"] += 1
                await asyncio.sleep(0.01)
            else:
                seen["right" if found else "miss"] += 1
                if found:
                    assert_same(found.context, context)

    async def many_right():
        return seen["right"] > enough

    async with opened(redis_server.url, listener) as store:
        using = [asyncio.create_task(use(context)) for context in contexts * 3]
        for _ in range(3):
            enough = seen["right"] + 100
            await eventually(many_right)
            redis_server.kill()
            await asyncio.sleep(0.3)
            await asyncio.to_thread(redis_server.start)
        enough = seen["right"] + 100
        await eventually(many_right)
        is_over = True
        await asyncio.gather(*using)
    assert seen["error"] > 0
    assert max(call[3] for call in listener.calls) < 10 * TIMEOUT
    assert listener.damage == []


async def test_hot_contexts_are_served_while_the_server_is_dead(redis_server, listener):
    async with opened(redis_server.url, listener, OPTIONS + "&hot_bytes=64MiB") as store:
        await store.put(make_context())
        redis_server.kill()
        for _ in range(20):
            assert_same((await store.get(KEY)).context, make_context())
        await fails(store.get(context_key("cold")))
        await fails(store.put(make_context("new")))
        assert_same((await store.get(context_key("new"))).context, make_context("new"))
        redis_server.start()  # without its data

        async def gone():
            return await store.get(KEY) is None

        await eventually(gone)
    assert listener.outcomes("memory", "get")[:20] == [("get", "ok")] * 20


# ---- the server, or the network, hangs


@pytest.mark.parametrize("what", ["the server", "the network"])
async def test_a_hanging_server_costs_at_most_the_deadline_once_and_no_answer_comes_late(
    redis_server, network, listener, what
):
    contexts = [large(name, 100) for name in range(8)]
    async with opened(through(network), listener) as store:
        await asyncio.gather(*map(store.put, contexts))
        await asyncio.gather(*(store.get(context.key) for context in contexts))
        if what == "the server":
            redis_server.stop()
        network.is_black_hole = what == "the network"
        # Their replies are on the way when everything goes on.
        waiting = await asyncio.gather(*(store.get(context.key) for context in contexts), return_exceptions=True)
        assert {type(answer) for answer in waiting} == {StoreUnavailableError}
        took = [await fails(store.get(context.key)) for context in contexts * 10]
        assert sum(seconds > SLOW for seconds in took) <= 1
        assert max(listener.seconds("error")) < 10 * TIMEOUT
        assert listener.breakers == [True]
        redis_server.go_on()
        network.is_black_hole = False
        await eventually(works(store, contexts[0]))
        for _ in range(5):
            for context, found in zip(
                contexts, await asyncio.gather(*(store.get(context.key) for context in contexts)), strict=True
            ):
                assert_same(found.context, context)
    assert listener.breakers == [True, False]


async def test_a_dead_network_is_not_tried_again_by_every_call(network, listener):
    async with opened(through(network), listener) as store:
        network.is_black_hole = True
        await fails(store.get(KEY))
        before = network.connections
        for _ in range(200):
            await fails(store.get(KEY))
        assert network.connections - before < 20  # the probes'


async def test_a_slow_network_stops_large_contexts_and_lets_small_ones_through(redis_server, network, listener):
    big, small = large(tokens=8000), make_context()
    async with opened(redis_server.url, listener, "timeout=60&socket_timeout=60") as store:
        await store.put(big)
        await store.put(small)
    async with opened(through(network), listener) as store:
        network.bytes_per_second = 200_000  # 40 s for the large one
        large_one = asyncio.create_task(store.get(big.key))
        assert_same((await store.get(small.key)).context, small)
        assert await fails(large_one) < 10 * TIMEOUT
        await eventually(works(store, small))
        network.bytes_per_second = None
        await eventually(works(store, big))
        assert_same((await store.get(big.key)).context, big)
    assert listener.damage == []


async def test_latency_alone_changes_no_answer(network, listener):
    async with opened(through(network), listener, "timeout=60&socket_timeout=60") as store:
        network.latency = 0.05
        contexts = [make_context(name) for name in range(10)]
        await asyncio.gather(*map(store.put, contexts))
        for context, found in zip(
            contexts, await asyncio.gather(*(store.get(context.key) for context in contexts)), strict=True
        ):
            assert_same(found.context, context)


# ---- connections are cut


async def test_a_connection_cut_midway_through_a_large_value_is_made_again(network, listener):
    async with opened(through(network), listener, "timeout=60&socket_timeout=60") as store:
        await store.put(large())
        network.cut_midway(1_000_000)
        assert_same((await store.get(large().key)).context, large())
        assert network.cuts == 0
    assert listener.breakers == []


async def test_a_connection_that_is_cut_each_time_is_an_error_and_no_half_of_a_value(network, listener):
    async with opened(through(network), listener) as store:
        await store.put(large())
        network.cut_midway(1_000_000, cuts=1000)
        await fails(store.get(large().key))
        assert network.cuts < 1000
        network.cuts = 0
        await eventually(works(store, large()))
    assert listener.damage == []


async def test_all_connections_cut_under_load(network, listener):
    contexts = [large(name, 200) for name in range(8)]

    async def use(context):
        for _ in range(10):
            await store.put(context)
            assert_same((await store.get(context.key)).context, context)

    async with opened(through(network), listener, "timeout=60&socket_timeout=60") as store:
        using = [asyncio.create_task(use(context)) for context in contexts]
        for _ in range(3):
            await asyncio.sleep(0.05)
            await asyncio.to_thread(network.cut)
        await asyncio.gather(*using)
    assert listener.damage == []
    assert listener.breakers == []


async def test_a_put_under_a_lease_whose_reply_is_lost_has_happened_once(network, listener):
    async with opened(through(network), listener, "timeout=60&socket_timeout=60") as store:
        lease = await store.lease(KEY, 60)
        network.cut_midway(0)
        await store.put(make_context(), lease)
        assert network.cuts == 0
        assert_same((await store.get(KEY)).context, make_context())
        assert not await store.renew(lease, 60)
        await store.delete(KEY)
        with pytest.raises(LeaseLostError):
            await store.put(make_context(), lease)


async def test_a_lease_whose_reply_is_lost_is_the_callers(network, listener):
    async with opened(through(network), listener, "timeout=60&socket_timeout=60") as store:
        await store.ping()
        network.cut_midway(0)
        lease = await store.lease(KEY, 60)
        assert network.cuts == 0
        assert await store.renew(lease, 60)


async def test_cancelled_calls_never_leave_their_replies_to_others(network, listener):
    network.latency = 0.002
    contexts = [large(name, 100) for name in range(8)]
    choice = random.Random(0)
    async with opened(through(network), listener, "timeout=60&socket_timeout=60&max_connections=4") as store:
        await asyncio.gather(*map(store.put, contexts))
        for _ in range(15):
            asked = [contexts[choice.randrange(8)] for _ in range(24)]
            gets = [asyncio.create_task(store.get(context.key)) for context in asked]
            await asyncio.sleep(choice.uniform(0, 0.08))
            for get in gets[::2]:
                get.cancel()
            for context, answer in zip(asked, await asyncio.gather(*gets, return_exceptions=True), strict=True):
                if not isinstance(answer, asyncio.CancelledError):
                    assert_same(answer.context, context)
        for context in contexts:
            assert_same((await store.get(context.key)).context, context)
    assert listener.damage == []
    assert listener.breakers == []


async def test_a_cancelled_put_leaves_the_old_value_or_the_new_one(network, listener):
    old, new = large(tokens=500), large(tokens=600)
    async with opened(through(network), listener, "timeout=60&socket_timeout=60") as store:
        for delay in (0.001, 0.003, 0.01, 0.03):
            await store.put(old)
            put = asyncio.create_task(store.put(new))
            await asyncio.sleep(delay)
            put.cancel()
            await asyncio.gather(put, return_exceptions=True)
            found = await store.get(old.key)
            assert_same(found.context, new if found.context.full_tokens == new.full_tokens else old)
    assert listener.damage == []


# ---- the server refuses


async def test_full_memory_refuses_puts_and_goes_on_with_the_rest(listener):
    with RedisServer(arguments=["--maxmemory-policy", "noeviction"]) as server:
        async with opened(server.url, listener) as store:
            await store.put(make_context())
            lease = await store.lease(context_key("new"), 60)
            server.configure(maxmemory="1")
            for under in (None, lease):
                await fails(store.put(make_context("new"), under), "maxmemory|OutOfMemory")
            assert_same((await store.get(KEY)).context, make_context())
            assert await store.touch(KEY)
            assert await store.state(context_key("new")) == "leased"
            assert listener.breakers == []
            server.configure(maxmemory="0")
            await store.put(make_context("new"), lease)
            assert_same((await store.get(context_key("new"))).context, make_context("new"))


async def test_full_memory_that_evicts_takes_every_put_and_misses_what_is_old(listener):
    with RedisServer(arguments=["--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru"]) as server:
        async with opened(server.url, listener) as store:
            contexts = [large(name, 500) for name in range(30)]
            for context in contexts:
                await store.put(context)
                assert_same((await store.get(context.key)).context, context)
            found = [await store.get(context.key) for context in contexts]
            assert found[-1] is not None
            assert 0 < sum(answer is not None for answer in found) < 20
            kept_old, kept_new = (sum(answer is not None for answer in half) for half in (found[:15], found[15:]))
            assert kept_old < kept_new  # Redis's LRU is by samples: which ones of the old are gone is open
            for context, answer in zip(contexts, found, strict=True):
                assert answer is None or answer.context.key == context.key
            assert 0 < len((await store.list("acme")).infos) < 20
            assert 0 < (await store.stats("acme")).contexts < 20
    assert listener.breakers == []
    assert not listener.seconds("error")


async def test_a_wrong_password_is_an_error_that_is_quick(listener):
    with RedisServer(password="s3cret") as server:  # noqa: S106
        async with opened(server.url.replace("s3cret", "wr0ng"), listener) as store:
            took = [await fails(store.get(KEY), "(?i)password|auth|WRONGPASS") for _ in range(50)]
            assert sum(seconds > SLOW for seconds in took) <= 1
            await fails(store.ping())


async def test_a_password_that_is_changed_and_changed_back(listener):
    with RedisServer(password="s3cret") as server:  # noqa: S106
        async with opened(server.url, listener) as store:
            await store.put(make_context())
            with server.client() as client:
                client.config_set("requirepass", "another")
                client.execute_command("CLIENT", "KILL", "TYPE", "normal")  # who was let in may stay otherwise
                await fails(store.get(KEY))
                await fails(store.put(make_context()))
                client.config_set("requirepass", "s3cret")
            await eventually(works(store, make_context()))
            assert_same((await store.get(KEY)).context, make_context())


async def test_a_user_may_do_what_its_rights_allow(redis_server, listener):
    reader = redis_server.add_user("reader", "s3cret", "~lookonce:1:*", "+get", "+getex", "+exists")
    stranger = redis_server.add_user("stranger", "s3cret", "~other:*", "+@all")
    async with opened(redis_server.url, listener) as store:
        await store.put(make_context())
    async with opened(reader, listener) as store:
        assert_same((await store.get(KEY)).context, make_context())
        for call in (store.put(make_context()), store.delete(KEY), store.lease(KEY, 60), store.list("acme")):
            await fails(call, "(?i)permission")
        assert_same((await store.get(KEY)).context, make_context())
    async with opened(stranger, listener) as store:
        for call in (store.get(KEY), store.put(make_context()), store.state(KEY)):
            await fails(call, "(?i)permission")
        await store.ping()
    assert listener.breakers == []


async def test_a_read_only_replica_serves_reads_and_refuses_the_rest_until_it_is_promoted(redis_server, listener):
    async with opened(redis_server.url, listener) as store:
        await store.put(make_context())
    with RedisServer() as replica:
        replica.replicate(redis_server)
        async with opened(replica.url, listener) as store:
            assert_same((await store.get(KEY)).context, make_context())
            assert await store.touch(KEY)
            assert await store.info(KEY)
            assert await store.state(KEY) == "kept"
            assert len((await store.list("acme")).infos) == 1
            for call in (store.put(make_context()), store.delete(KEY), store.lease(KEY, 60)):
                await fails(call, "(?i)read.?only")
            assert listener.breakers == []
            with replica.client() as client:
                client.replicaof("NO", "ONE")
            await store.put(make_context("new"))
            assert await store.delete(KEY)
