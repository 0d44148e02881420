"""One suite for every store's records, beside its contexts and in the same place."""

import pytest

from lookonce_cache import MAX_BLOB_BYTES, BlobKey, BlobTooLargeError, StoreUnavailableError, open_store

from ..support.cache_samples import context_key, hex_digest, make_context
from ..support.redis_server import RedisServer
from ..support.stores import PATIENTLY, Listener, acl_url, eventually

pytestmark = pytest.mark.anyio

KEY = BlobKey("acme", hex_digest("a record"))
OTHER = BlobKey("acme", hex_digest("another"))
VALUE = "what was said: 自行车 \0".encode()


def redis_name(key: BlobKey) -> str:
    return f"lookonce:1:record:{{{key.tenant}:{key.id}}}"


@pytest.fixture
def records(store):
    return store.records


async def test_round_trip(records):
    for value in (VALUE, b"", bytes(range(256)), b"x" * MAX_BLOB_BYTES):
        await records.write(KEY, value)
        assert await records.read(KEY) == value


async def test_missing(records):
    await records.write(OTHER, VALUE)
    assert await records.read(KEY) is None
    assert await records.forget(KEY) is False


async def test_the_last_write_wins(records):
    await records.write(KEY, b"first")
    await records.write(KEY, VALUE)
    assert await records.read(KEY) == VALUE


async def test_add_stores_what_is_new_and_replaces_nothing(records):
    assert await records.add(KEY, VALUE) is True
    assert await records.add(KEY, b"another") is False
    assert await records.read(KEY) == VALUE
    assert await records.add(BlobKey("globex", KEY.id), b"theirs") is True
    with pytest.raises(BlobTooLargeError):
        await records.add(OTHER, b"x" * (MAX_BLOB_BYTES + 1))
    await records.forget(KEY)
    assert await records.add(KEY, b"another", ttl=0.1) is True

    async def expired() -> bool:
        return await records.add(KEY, VALUE)

    await eventually(expired)
    assert await records.read(KEY) == VALUE


async def test_forget(records):
    await records.write(KEY, VALUE)
    await records.write(OTHER, b"other")
    assert await records.forget(KEY) is True
    assert await records.forget(KEY) is False
    assert await records.read(KEY) is None
    assert await records.read(OTHER) == b"other"


async def test_another_tenants_record_is_none(records):
    theirs = BlobKey("globex", KEY.id)
    await records.write(KEY, VALUE)
    assert await records.read(theirs) is None
    assert await records.forget(theirs) is False
    assert await records.read(KEY) == VALUE


async def test_a_record_and_a_context_of_one_name_are_two_things(store):
    context = context_key()
    record = BlobKey(context.tenant, context.id)
    await store.put(make_context())
    await store.records.write(record, VALUE)
    assert await store.delete(context) is True
    assert await store.records.read(record) == VALUE
    assert await store.records.forget(record) is True
    assert (await store.list("acme")).infos == ()


async def test_what_is_too_large_is_refused_and_replaces_nothing(records):
    await records.write(KEY, VALUE)
    with pytest.raises(BlobTooLargeError, match=f"{MAX_BLOB_BYTES + 1} bytes"):
        await records.write(KEY, b"x" * (MAX_BLOB_BYTES + 1))
    assert await records.read(KEY) == VALUE


async def test_records_expire_each_by_the_ttl_it_was_given(opening):
    records = opening(ttl=0.2).records
    await records.write(KEY, VALUE)
    await records.write(OTHER, VALUE, ttl=600)

    async def gone() -> bool:
        return not await records.forget(KEY)

    await eventually(gone)
    assert await records.forget(OTHER) is True


async def test_without_a_ttl_they_stay(opening):
    records = opening(ttl=None).records
    await records.write(KEY, VALUE)
    assert await records.read(KEY) == VALUE


async def test_each_call_is_told(opening):
    listener = Listener()
    records = opening(ttl=60, observer=listener).records
    await records.read(KEY)
    await records.write(KEY, VALUE)
    await records.read(KEY)
    await records.forget(KEY)
    with pytest.raises(BlobTooLargeError):
        await records.write(KEY, b"x" * (MAX_BLOB_BYTES + 1))
    assert listener.outcomes(records.tier) == [
        ("read", "miss"),
        ("write", "ok"),
        ("read", "ok"),
        ("forget", "ok"),
        ("write", "refused"),
    ]


# ---- in Redis alone


@pytest.fixture
async def in_redis(redis_server):
    listener = Listener()
    store = open_store(acl_url(redis_server) + PATIENTLY, ttl=60, observer=listener)
    yield store.records, listener
    await store.close()


async def test_what_is_damaged_or_foreign_is_no_record(in_redis, redis_server: RedisServer):
    records, listener = in_redis
    await records.write(KEY, VALUE)
    with redis_server.client() as redis:
        good = redis.get(redis_name(KEY))
        for bad in (b"", b"x", good[:-1], good + b"x", good[:20] + b"?" + good[21:], b"lookonce record 2" + good[17:]):
            redis.set(redis_name(KEY), bad)
            assert await records.read(KEY) is None
        redis.delete(redis_name(KEY))
        redis.rpush(redis_name(KEY), "a list")
        assert await records.read(KEY) is None
        redis.set(redis_name(OTHER), good)  # one that was written under another key
        assert await records.read(OTHER) is None
        assert listener.damage == [("redis", "record")] * 8


async def test_reads_and_writes_put_expiry_off(in_redis, redis_server: RedisServer):
    records, _ = in_redis
    with redis_server.client() as redis:
        await records.write(KEY, VALUE, ttl=10)
        assert redis.ttl(redis_name(KEY)) <= 10
        await records.read(KEY)
        assert 50 < redis.ttl(redis_name(KEY)) <= 60
        await records.write(KEY, VALUE, ttl=600)
        assert 590 < redis.ttl(redis_name(KEY)) <= 600
        await records.write(KEY, VALUE)
        assert 50 < redis.ttl(redis_name(KEY)) <= 60


async def test_a_dead_redis_is_unavailable(in_redis, redis_server: RedisServer):
    records, _ = in_redis
    await records.write(KEY, VALUE)
    redis_server.kill()
    for call in (records.read(KEY), records.write(KEY, VALUE), records.forget(KEY)):
        with pytest.raises(StoreUnavailableError):
            await call
