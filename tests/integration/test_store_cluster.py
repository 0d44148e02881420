"""What the caller of a store sees when nodes of a cluster fail, and when slots move."""

import asyncio

import pytest
from redis.crc import key_slot

from lookonce_cache import StoreUnavailableError, open_store

from ..support.cache_samples import assert_same, context_key, make_context
from ..support.redis_cluster import RedisCluster
from ..support.redis_server import free_port
from ..support.stores import Listener, eventually, listed

pytestmark = pytest.mark.anyio

OPTIONS = "?timeout=2&socket_timeout=2&socket_connect_timeout=1"
SLOW = 1.0  # seconds: longer than any call that does not wait for a dead node


def redis_key(key):
    return f"lookonce:1:{{{key.tenant}:{key.id}}}".encode()


def by_master(cluster, names=range(30)):
    """The contexts of each master."""
    contexts = {master: [] for master in cluster.masters}
    for context in map(make_context, names):
        contexts[cluster.master_of(redis_key(context.key))].append(context)
    assert all(contexts.values())
    return contexts


async def fill(store, contexts):
    for context in (context for some in contexts.values() for context in some):
        await store.put(context)


async def all_right(store, contexts):
    for context in contexts:
        assert_same((await store.get(context.key)).context, context)


def serves(store, context):
    async def check():
        try:
            await store.get(context.key)
        except StoreUnavailableError:
            return False
        return True

    return check


async def test_a_dead_master_costs_its_shard_until_its_replica_takes_over():
    listener = Listener()
    with RedisCluster(replicas=1) as cluster:
        store = open_store(cluster.url + OPTIONS, ttl=600, observer=listener)
        contexts = by_master(cluster)
        dead, *others = cluster.masters
        await fill(store, contexts)
        cluster.wait_for_replicas()
        dead.kill()
        with pytest.raises(StoreUnavailableError):
            await store.get(contexts[dead][0].key)
        for master in others:
            await all_right(store, contexts[master])
        failover = asyncio.create_task(asyncio.to_thread(cluster.wait_for_failover, dead))
        while not failover.done():
            for master in others:
                await all_right(store, contexts[master])
        await failover
        await eventually(serves(store, contexts[dead][0]))
        await all_right(store, contexts[dead])
        await store.put(contexts[dead][0])
        assert await store.delete(contexts[dead][1].key)
        errors = listener.seconds("error")
        assert sum(seconds > SLOW for seconds in errors) <= 1
        await store.ping()
        await store.close()
    assert listener.damage == []


async def test_a_dead_master_without_replica_costs_its_shard_until_it_is_back():
    listener = Listener()
    with RedisCluster() as cluster:
        store = open_store(cluster.url + OPTIONS, ttl=600, observer=listener)
        contexts = by_master(cluster)
        dead, *others = cluster.masters
        await fill(store, contexts)
        dead.kill()
        for _ in range(10):
            with pytest.raises(StoreUnavailableError):
                await store.get(contexts[dead][0].key)
            for master in others:
                await all_right(store, contexts[master])
                await store.put(contexts[master][0])
        with pytest.raises(StoreUnavailableError):
            await store.ping()
        assert sum(seconds > SLOW for _, operation, outcome, seconds in listener.calls if operation == "get") <= 1
        dead.start()  # without its data
        await eventually(serves(store, contexts[dead][0]))
        assert await store.get(contexts[dead][0].key) is None
        await store.put(contexts[dead][0])
        await all_right(store, contexts[dead][:1])
        await store.close()


async def test_a_node_that_hangs_costs_its_shard_only():
    listener = Listener()
    with RedisCluster() as cluster:
        store = open_store(cluster.url + OPTIONS, ttl=600, observer=listener)
        contexts = by_master(cluster)
        hanging, *others = cluster.masters
        await fill(store, contexts)
        hanging.stop()
        for _ in range(10):
            with pytest.raises(StoreUnavailableError):
                await store.get(contexts[hanging][0].key)
            for master in others:
                await all_right(store, contexts[master])
        errors = listener.seconds("error")
        assert sum(seconds > SLOW for seconds in errors) <= 1
        hanging.go_on()
        await eventually(serves(store, contexts[hanging][0]))
        await all_right(store, contexts[hanging])
        await store.close()
    assert listener.damage == []


async def test_a_slot_that_moves_is_followed():
    listener = Listener()
    with RedisCluster() as cluster:
        store = open_store(cluster.url + OPTIONS, ttl=600, observer=listener)
        context = make_context()
        await store.put(context)
        key, slot = redis_key(context.key), key_slot(redis_key(context.key))
        source = cluster.master_of(key)
        target = next(master for master in cluster.masters if master is not source)
        with source.client() as sending, target.client() as taking:
            sent_to, taken_from = (client.execute_command("CLUSTER", "MYID") for client in (taking, sending))
            taking.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", taken_from)
            sending.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", sent_to)
            await all_right(store, [context])
            sending.migrate("127.0.0.1", target.port, [key.decode()], 0, 5000)
            await all_right(store, [context])  # the slot is half moved
            assert await store.state(context.key) == "kept"
            for client in (taking, sending):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", sent_to)
        await all_right(store, [context])
        await store.put(context, await store.lease(context.key, 60))
        assert await store.delete(context.key)
        await store.close()
    assert listener.breakers == []
    assert not listener.seconds("error")


async def test_any_node_of_the_cluster_will_do_to_begin_with(redis_cluster):
    store = open_store(f"redis+cluster://127.0.0.1:{free_port()},{redis_cluster.url.partition('//')[2]}{OPTIONS}")
    await store.put(make_context())
    await all_right(store, [make_context()])
    assert await listed(store) == [context_key().id]
    await store.close()


async def test_a_cluster_that_is_not_there_is_unavailable():
    store = open_store(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}{OPTIONS}")
    for _ in range(20):
        with pytest.raises(StoreUnavailableError):
            await store.get(context_key())
    await store.close()
