"""What is found in Redis under our names, and is not ours: it is skipped and reported, and never an error."""

import asyncio
import random

import pytest

from lookonce_cache import BlobKey, open_store
from lookonce_cache.stores.redis.blobs import blob_key
from lookonce_cache.stores.redis.index import last_lease_key, lease_key, value_key

from ..support.cache_samples import assert_same, context_key, hex_digest, make_context
from ..support.stores import PATIENTLY, Listener, listed

pytestmark = pytest.mark.anyio

KEY = context_key()
RECORD = BlobKey("acme", hex_digest("record"))
INDEX = "lookonce:1:index:acme"
NAMES = [INDEX, value_key(KEY), lease_key(KEY), last_lease_key(KEY), blob_key(RECORD)]
# What else may stand in an index, with its score.
MEMBERS = [
    (b"", 1.0),
    (b"member", 2.0),
    (b"\xff\xfe\0", 2e9),
    (KEY.id.upper().encode(), 2e9),
    (KEY.id.encode()[:-1], 2e9),
    ("\u0660".encode() * 64, 2e9),
    (b"x" * 100_000, -5.0),
    (hex_digest("elsewhere").encode(), float("inf")),
    (hex_digest("nowhere").encode(), float("-inf")),
    (hex_digest("before").encode(), -1.0),
]


@pytest.fixture
async def listener():
    return Listener()


@pytest.fixture
async def store(redis_server, listener):
    store = open_store(redis_server.url + PATIENTLY, ttl=60, observer=listener)
    yield store
    await store.close()


async def all_works(store):
    """The store is usable, whatever was there, and everything in it is ours in the end."""
    await look_at_all(store)
    await store.put(make_context("another"))
    lease = await store.lease(KEY, 60)
    assert lease
    await store.put(make_context(), lease)
    assert_same((await store.get(KEY)).context, make_context())
    assert await listed(store) == [KEY.id, context_key("another").id]
    assert await listed(store, limit=1) == [KEY.id, context_key("another").id]
    stats = await store.stats("acme")
    assert stats.contexts == 2
    assert 1e9 < stats.oldest <= stats.newest < 3e9
    await store.records.write(RECORD, b"ours")
    assert await store.records.read(RECORD) == b"ours"
    assert await store.delete(KEY)
    assert await listed(store) == [context_key("another").id]


async def look_at_all(store):
    assert await store.get(KEY) is None
    assert await store.peek(KEY) is None
    assert await store.info(KEY) is None
    assert await store.records.read(RECORD) is None
    assert await listed(store) == []
    assert (await store.stats("acme")).newest is None
    await store.touch(KEY)
    await store.state(KEY)


async def test_foreign_members_hide_none_of_ours_and_are_swept(store, listener, redis_server):
    with redis_server.client() as client:
        client.zadd(INDEX, dict(MEMBERS))
        await all_works(store)
        assert ("redis", "index") in listener.damage
        assert client.zrange(INDEX, 0, -1) == [context_key("another").id.encode()]


async def test_a_great_many_foreign_members_of_one_score_hide_none_of_ours(store, redis_server):
    with redis_server.client() as client:
        await store.put(make_context())
        client.zadd(INDEX, {f"member {i}": 2e9 for i in range(1000)})
        assert await listed(store) == [KEY.id]
        assert client.zcard(INDEX) == 1


async def test_foreign_members_are_skipped_where_nothing_can_be_written(store, redis_server):
    with redis_server.client() as client:
        await store.put(make_context())
        client.zadd(INDEX, dict(MEMBERS) | {f"member {i}": 2e9 for i in range(100)})
        redis_server.configure(min_replicas_to_write="1")
        try:
            assert await listed(store) == [KEY.id]
            assert (await store.stats("acme")).contexts == 1
        finally:
            redis_server.configure(min_replicas_to_write="0")
        assert client.zcard(INDEX) > 100


async def test_a_lease_that_never_ends_is_none(store, listener, redis_server):
    """Ours end; this would keep everybody waiting for a context that nobody makes."""
    with redis_server.client() as client:
        for foreign in ("somebody's", "0" * 32):
            client.set(lease_key(KEY), foreign)
            assert await store.state(KEY) == "absent"
            lease = await store.lease(KEY, 60)
            assert lease
            assert listener.damage.pop() == ("redis", "lease")
            assert await store.lease(KEY, 60) is None
            await store.release(lease)


def set_foreign(client, name, choice):
    """Put something of any type under a name, which may end by itself."""
    new = "not ours"
    client.delete(new)
    kinds = {
        "string": lambda: client.set(new, choice.randbytes(choice.choice([0, 1, 31, 32, 100, 5000]))),
        "list": lambda: client.rpush(new, choice.randbytes(8), b""),
        "hash": lambda: client.hset(new, choice.randbytes(8), b"1"),
        "set": lambda: client.sadd(new, choice.randbytes(8)),
        "zset": lambda: client.zadd(new, dict(choice.sample(MEMBERS, 4))),
        "stream": lambda: client.xadd(new, {"field": "value"}),
        "hyperloglog": lambda: client.pfadd(new, "element"),
        "geo": lambda: client.geoadd(new, (13.4, 52.5, choice.randbytes(8))),
    }
    kind = choice.choice(list(kinds))
    kinds[kind]()
    if choice.random() < 0.3:
        client.pexpire(new, 60_000)
    client.rename(new, name)  # in one step, since the store is in use
    return name, kind


async def test_whatever_is_under_our_names_everything_goes_on(store, redis_server):
    with redis_server.client() as client:
        for seed in range(150):
            client.flushall()
            choice = random.Random(seed)
            foreign = [
                set_foreign(client, name, choice) for name in choice.sample(NAMES, choice.randint(1, len(NAMES)))
            ]
            try:
                await all_works(store)
            except BaseException as error:
                error.add_note(f"with {foreign}, seed {seed}")
                raise


async def test_what_is_foreign_comes_and_goes_under_load(store, redis_server):
    """No call fails while another program writes under our names."""
    choice = random.Random(0)
    calls = [
        lambda: store.put(make_context()),
        lambda: store.get(KEY),
        lambda: store.delete(KEY),
        lambda: store.list("acme"),
        lambda: store.stats("acme"),
        lambda: store.info(KEY),
        lambda: store.lease(KEY, 0.01),
        lambda: store.state(KEY),
        lambda: store.records.read(RECORD),
        lambda: store.records.write(RECORD, b"ours"),
    ]
    with redis_server.client() as client:
        for _ in range(60):
            async with asyncio.TaskGroup() as going:
                for _ in range(8):
                    going.create_task(choice.choice(calls)())
                await asyncio.to_thread(set_foreign, client, choice.choice(NAMES), choice)
