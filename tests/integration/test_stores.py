"""One suite for every store, then what only one of them promises."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
import torch
from tests.unit.cache.samples import assert_same, context_id, make_context

from lookonce_cache import (
    ContextInfo,
    ContextTooLargeError,
    MemoryStore,
    RedisStore,
    StoreUnavailableError,
    encode,
    open_store,
)

from .redis_server import RedisServer

pytestmark = pytest.mark.anyio

PATIENTLY = "?timeout=60&socket_timeout=60&socket_connect_timeout=60"  # a busy machine is no failure


@pytest.fixture(params=["memory", "redis", "redis over a unix socket"])
async def opening(request):
    """A function that opens the store under test with given options; what it opened is closed at the end."""
    url = "memory://"
    if request.param != "memory":
        server = request.getfixturevalue("redis_server")
        url = (server.url if request.param == "redis" else server.socket_url) + PATIENTLY
    async with AsyncExitStack() as stack:

        def open_(**options):
            store = open_store(url, **options)
            stack.push_async_callback(store.close)
            return store

        yield open_


@pytest.fixture
async def store(opening):
    return opening(ttl=60)


async def eventually(condition):
    """Polls until `condition()` holds."""
    deadline = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
async def test_round_trip(store, dtype):
    context = make_context(keys=torch.randn(2, 3, 7, 4).to(dtype), values=torch.randn(2, 3, 7, 4).to(dtype))
    await store.put(context)
    assert_same(await store.get(context.id), context)


async def test_a_context_of_many_megabytes(store):
    keys = torch.randn(8, 8, 512, 128)
    context = make_context(keys=keys, values=-keys, next_position=512, kept_indices=torch.arange(12).int()[None])
    await store.put(context)
    assert_same(await store.get(context.id), context)


@pytest.mark.parametrize("missing", [context_id("nobody"), "", "*", "not an id", "\0", "\ud800", "é" * 1000])
async def test_missing(store, missing):
    await store.put(make_context())
    assert await store.get(missing) is None
    assert await store.info(missing) is None
    assert await store.delete(missing) is False


async def test_the_last_put_wins(store):
    await store.put(make_context())
    second = make_context(description="second", keys=torch.ones(2, 3, 7, 4))
    await store.put(second)
    assert_same(await store.get(second.id), second)
    assert len(await store.list()) == 1


async def test_delete(store):
    context, other = make_context(), make_context("other")
    await store.put(context)
    await store.put(other)
    assert await store.delete(context.id) is True
    assert await store.delete(context.id) is False
    assert await store.get(context.id) is None
    assert_same(await store.get(other.id), other)


async def test_contexts_expire(opening):
    store = opening(ttl=0.2)
    context = make_context()
    await store.put(context)

    async def gone():
        return await store.info(context.id) is None

    await eventually(gone)
    assert await store.get(context.id) is None
    assert await store.list() == ()
    assert await store.delete(context.id) is False


async def test_without_a_ttl_contexts_stay(opening):
    store = opening(ttl=None)
    await store.put(make_context())
    assert_same(await store.get(make_context().id), make_context())
    assert (await store.info(make_context().id)).expires_at is None


@pytest.mark.parametrize("use", ["get", "put"])
async def test_use_puts_expiry_off(store, use):
    context = make_context()
    await store.put(context)
    first = (await store.info(context.id)).expires_at

    async def later():
        await (store.get(context.id) if use == "get" else store.put(context))
        return (await store.info(context.id)).expires_at > first + 0.1

    await eventually(later)


async def test_looking_does_not_put_expiry_off(opening):
    store = opening(ttl=0.5)
    context = make_context()
    await store.put(context)

    async def gone():
        await store.list()
        return await store.info(context.id) is None

    await eventually(gone)


async def test_info(store):
    context = make_context()
    before = time.time()
    await store.put(context)
    info = await store.info(context.id)
    assert before + 59 < info.expires_at < time.time() + 61
    assert info == ContextInfo(
        id=context.id,
        description="ein rotes Fahrrad, 自行车 🚲",
        image_tokens=12,
        kept_tokens=3,
        tokens=7,
        bytes=context.nbytes,
        created_at=1_700_000_000.25,
        expires_at=info.expires_at,
        retention=0.25,
        selection="attention",
    )


async def test_list(store):
    assert await store.list() == ()
    names = range(150)  # more than one batch
    for name in names:
        await store.put(make_context(name))
    infos = await store.list(limit=1000)
    assert sorted(info.id for info in infos) == sorted(map(context_id, names))
    assert len(await store.list()) == 100
    assert len(await store.list(limit=7)) == 7
    assert await store.list(limit=0) == ()


async def test_many_at_once(store):
    contexts = [make_context(name) for name in range(20)]

    async def use(context):
        for _ in range(5):
            await store.put(context)
            assert_same(await store.get(context.id), context)
            assert (await store.info(context.id)).description == context.description

    await asyncio.gather(*map(use, contexts * 3))
    assert len(await store.list()) == 20


async def test_readers_see_one_whole_version_while_it_is_replaced(store):
    versions = [make_context(keys=torch.full((2, 3, 7, 4), n), values=torch.full((2, 3, 7, 4), n)) for n in (1.0, 2.0)]
    await store.put(versions[0])

    async def read():
        for _ in range(30):
            context = await store.get(versions[0].id)
            assert context.keys.unique().tolist() == context.values.unique().tolist()

    async def write():
        for version in versions * 15:
            await store.put(version)

    await asyncio.gather(read(), write(), read(), write())


async def test_ping_and_tier(store):
    await store.ping()
    assert store.tier in ("memory", "redis")


# ---- memory only

SIZE = make_context().nbytes


async def test_memory_drops_the_least_recently_used():
    store = MemoryStore(max_bytes=3 * SIZE)
    for name in "abc":
        await store.put(make_context(name))
    await store.get(context_id("a"))
    await store.info(context_id("b"))
    await store.list()
    await store.put(make_context("d"))
    assert [info.id for info in await store.list()] == [context_id(name) for name in "dac"]
    assert store.used_bytes == 3 * SIZE


async def test_memory_accounts_exactly():
    store = MemoryStore(max_bytes=3 * SIZE)
    await store.put(make_context("a"))
    await store.put(make_context("a"))
    assert store.used_bytes == SIZE
    double = make_context("a", scores=torch.rand(12 + SIZE // 4), grid=(1, 12 + SIZE // 4), image_tokens=12 + SIZE // 4)
    await store.put(double)
    assert store.used_bytes == 2 * SIZE
    await store.put(make_context("b"))
    await store.delete(context_id("a"))
    assert store.used_bytes == SIZE
    await store.close()
    assert store.used_bytes == 0


async def test_memory_refuses_what_exceeds_the_budget_and_keeps_the_rest():
    store = MemoryStore(max_bytes=SIZE)
    await store.put(make_context("a"))
    keys = torch.zeros(2, 3, 8, 4)
    with pytest.raises(ContextTooLargeError, match=f"exceeds max_bytes={SIZE}"):
        await store.put(make_context("a", keys=keys, values=keys, next_position=8))
    assert_same(await store.get(context_id("a")), make_context("a"))


async def test_memory_frees_what_expired():
    store = MemoryStore(max_bytes=10 * SIZE, ttl=0.05)
    await store.put(make_context("a"))

    async def freed():
        await store.list()
        return store.used_bytes == 0

    await eventually(freed)


async def test_memory_does_not_hold_what_a_view_was_cut_from():
    whole = torch.randn(2, 3, 7000, 4)
    store = MemoryStore(max_bytes=SIZE)
    await store.put(make_context(keys=whole[:, :, :7], values=whole[:, :, 7:14]))
    held = await store.get(make_context().id)
    assert held.keys.untyped_storage().nbytes() == held.keys.nbytes
    assert torch.equal(held.keys, whole[:, :, :7])


# ---- Redis only


@pytest.fixture
async def damaged():
    return []


@pytest.fixture
async def redis_store(redis_server, damaged):
    store = open_store(redis_server.url + PATIENTLY, ttl=60, on_damaged=damaged.append)
    yield store
    await store.close()


def redis_key(context):
    return f"lookonce:context:{context.id}"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda value: b"garbage", "foreign"),
        (lambda value: value[:20], "truncated"),
        (lambda value: value[:50] + b"?" + value[51:], "checksum"),
        (lambda value: value[:8] + b"\2" + value[9:], "version"),
        (lambda value: encode(make_context("another")), "foreign"),
    ],
)
async def test_redis_damaged_value_is_a_miss_and_counted(redis_server, redis_store, damaged, damage, reason):
    context, good = make_context(), make_context("good")
    await redis_store.put(good)
    with redis_server.client() as client:
        client.set(redis_key(context), damage(encode(context)))
    assert await redis_store.get(context.id) is None
    assert damaged == [reason]
    assert await redis_store.info(context.id) is None
    assert [info.id for info in await redis_store.list()] == [good.id]
    assert damaged == [reason] * 3
    await redis_store.put(context)
    assert_same(await redis_store.get(context.id), context)


@pytest.mark.parametrize("cut", [slice(None, -1), slice(None, -700)])
async def test_redis_value_with_a_damaged_end_is_a_miss(redis_server, redis_store, damaged, cut):
    context = make_context()
    with redis_server.client() as client:
        client.set(redis_key(context), encode(context)[cut])
    assert await redis_store.get(context.id) is None
    assert damaged == ["truncated"]


async def test_redis_key_of_another_type_is_a_miss(redis_server, redis_store, damaged):
    context = make_context()
    with redis_server.client() as client:
        client.lpush(redis_key(context), "x")
    assert await redis_store.get(context.id) is None
    assert await redis_store.info(context.id) is None
    assert await redis_store.list() == ()
    assert damaged == ["foreign"] * 2
    await redis_store.put(context)
    assert_same(await redis_store.get(context.id), context)


async def test_redis_keeps_one_key_with_one_value(redis_server, redis_store):
    context = make_context()
    await redis_store.put(context)
    with redis_server.client() as client:
        client.set("somebody else's", "value")
        assert client.get(redis_key(context)) == encode(context)
        assert 0 < client.pttl(redis_key(context)) <= 60_000
        assert client.dbsize() == 2
    assert len(await redis_store.list()) == 1


async def test_redis_serves_two_stores(redis_server, redis_store):
    other = open_store(redis_server.url)
    await redis_store.put(make_context())
    assert_same(await other.get(make_context().id), make_context())
    await other.close()


async def test_redis_refuses_what_it_could_not_take(redis_store, monkeypatch):
    monkeypatch.setattr("lookonce_cache.redis_store.MAX_VALUE_BYTES", 100)
    with pytest.raises(ContextTooLargeError, match="Redis takes 100 at most"):
        await redis_store.put(make_context())


async def test_redis_killed_and_back(redis_server, redis_store):
    context = make_context()
    await redis_store.put(context)
    redis_server.kill()
    for call in (
        redis_store.ping(),
        redis_store.get(context.id),
        redis_store.put(context),
        redis_store.delete(context.id),
        redis_store.info(context.id),
        redis_store.list(),
    ):
        with pytest.raises(StoreUnavailableError, match=f"Redis at 127.0.0.1:{redis_server.port}/0"):
            await call
    redis_server.restart()
    await redis_store.ping()
    assert await redis_store.get(context.id) is None
    await redis_store.put(context)
    assert_same(await redis_store.get(context.id), context)


async def test_redis_restart_between_two_calls_is_not_noticed(redis_store, redis_server):
    await redis_store.ping()
    redis_server.restart()
    await redis_store.put(make_context())


async def test_redis_wrong_port(redis_server):
    with RedisServer() as gone:
        url = gone.url
    store = RedisStore(url)
    with pytest.raises(StoreUnavailableError, match=r"Redis at 127\.0\.0\.1"):
        await store.ping()
    await store.close()


async def test_redis_with_a_password_that_no_error_contains():
    with RedisServer(password="s3cret") as server:  # noqa: S106
        good = open_store(server.url)
        await good.put(make_context())
        assert_same(await good.get(make_context().id), make_context())
        wrong = open_store(server.url.replace("s3cret", "wr0ng"))
        with pytest.raises(StoreUnavailableError) as refused:
            await wrong.ping()
        server.kill()
        with pytest.raises(StoreUnavailableError) as killed:
            await good.ping()
        await good.close()
        await wrong.close()
    for error, password in ((refused.value, "wr0ng"), (killed.value, "s3cret")):
        assert password not in str(error)
        assert error.__cause__ is None


async def test_redis_that_echoes_the_password_is_not_quoted():
    with RedisServer(arguments=["--rename-command", "HELLO", ""]) as server:
        store = open_store(server.url.replace("//", "//:s3cret@"))
        with pytest.raises(StoreUnavailableError, match=r"unknown command .HELLO.$") as caught:
            await store.ping()
        await store.close()
    assert caught.value.__cause__ is None


async def test_redis_out_of_memory_is_an_error_of_ours():
    with RedisServer(arguments=["--maxmemory", "1", "--maxmemory-policy", "noeviction"]) as server:
        store = open_store(server.url)
        with pytest.raises(StoreUnavailableError, match="OutOfMemoryError"):
            await store.put(make_context())
        await store.close()


async def test_redis_that_persists_keeps_contexts_over_a_crash():
    with RedisServer(persistent=True) as server:
        store = open_store(server.url, ttl=60)
        await store.put(make_context())
        server.restart()
        assert_same(await store.get(make_context().id), make_context())
        await store.close()
