"""A Redis that answers and serves reads, and carries out no writes: each refusal is provoked in a real one."""

import threading
from contextlib import asynccontextmanager, contextmanager

import pytest
import redis

from lookonce_cache import BlobKey, StoreUnavailableError, WritesRefusedError, open_store

from ..support.cache_samples import assert_same, context_key, hex_digest, make_context
from ..support.redis_server import RedisServer, wait_until
from ..support.stores import PATIENTLY, Listener, eventually, listed

pytestmark = pytest.mark.anyio

KEY, NEW = context_key(), context_key("new")
RECORD = BlobKey("acme", hex_digest("record"))
ALWAYS_CHECKED = PATIENTLY + "&health_check_interval=0.001"  # idle connections, before each command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("redis") / "data"


@pytest.fixture(scope="module")
def server(folder):
    folder.mkdir()
    with RedisServer(arguments=["--dir", str(folder)]) as running:
        yield running


@contextmanager
def misconf(server, folder):
    """It cannot save its data: its folder is gone."""
    server.configure(save="3600 1")
    folder.rmdir()
    with server.client() as client:
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "saving failed")
        try:
            yield
        finally:
            server.configure(stop_writes_on_bgsave_error="no", save="")


@contextmanager
def noreplicas(server, folder):
    server.configure(min_replicas_to_write="1")
    try:
        yield
    finally:
        server.configure(min_replicas_to_write="0")


@contextmanager
def oom(server, folder):
    server.configure(maxmemory="1", maxmemory_policy="noeviction")
    try:
        yield
    finally:
        server.configure(maxmemory="0")


@contextmanager
def readonly(server, folder):
    """It has become a replica, and its primary is gone."""
    with server.client() as client:
        client.replicaof("127.0.0.1", "1")
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


@contextmanager
def noperm(server, folder):
    with allowed(server, "+@read", "+@connection"):
        yield


@contextmanager
def noperm_in_scripts(server, folder):
    with allowed(server, "+@read", "+@connection", "+eval", "+evalsha"):
        yield


@contextmanager
def allowed(server, *rules):
    """The user may do only that."""
    try:
        server.add_user("lookonce", "s3cret", "~lookonce:1:*", *rules)
        yield
    finally:
        server.add_user("lookonce", "s3cret", "~*", "+@all")


@asynccontextmanager
async def opened(server, options=ALWAYS_CHECKED):
    listener = Listener()
    url = server.add_user("lookonce", "s3cret", "~*", "+@all")
    store = open_store(url + options, ttl=60, observer=listener)
    try:
        yield store, listener
    finally:
        await store.close()


@pytest.mark.parametrize("refusal", [misconf, noreplicas, oom, readonly, noperm, noperm_in_scripts])
async def test_reads_go_on_and_writes_say_why_not(server, folder, refusal):
    server.flush()
    reason = refusal.__name__.partition("_")[0]
    async with opened(server) as (store, listener):
        await store.put(make_context())
        await store.put(make_context("gone"))
        await store.records.write(RECORD, b"kept")
        lease = await store.lease(NEW, 60)
        with server.client() as client:
            client.unlink(f"lookonce:1:{{acme:{context_key('gone').id}}}")  # the index names what is gone
        assert listener.refusals == {None}
        listener.refusals.clear()
        with refusal(server, folder):
            for _ in range(2):
                assert_same((await store.get(KEY)).context, make_context())
                assert_same(await store.peek(KEY), make_context())
                assert await store.touch(KEY)
                assert (await store.info(KEY)).description == make_context().description
                assert [await store.state(key) for key in (KEY, NEW)] == ["kept", "leased"]
                assert await listed(store) == [KEY.id]
                assert (await store.stats("acme")).contexts == 1
                assert await store.records.read(RECORD) == b"kept"
                await store.ping()
            await assert_a_new_store_reads(server)
            writes = [
                store.put(make_context("new")),
                store.put(make_context("new"), lease),
                store.lease(context_key("other"), 60),
                store.records.write(RECORD, b"new"),
            ]
            if refusal is not oom:  # which lets go what frees memory
                writes += [store.delete(KEY), store.records.forget(RECORD)]
            for write in writes:
                with pytest.raises(WritesRefusedError) as caught:
                    await write
                assert caught.value.reason == reason
            if refusal is oom:
                assert await store.delete(KEY)
        assert listener.refusals == {reason}
        assert listener.breakers == []
        assert listener.damage == []
        assert not listener.seconds("error")
        await store.put(make_context("new"), lease)
        assert_same((await store.get(NEW)).context, make_context("new"))
        assert None in listener.refusals


async def assert_a_new_store_reads(server):
    """One that is opened while writes are refused."""
    store = open_store(f"redis://lookonce:s3cret@127.0.0.1:{server.port}/0{PATIENTLY}", ttl=60)
    await store.ping()
    assert_same((await store.get(KEY)).context, make_context())
    await store.close()


# ---- not even reads


async def test_a_redis_that_is_busy_with_a_script_is_an_error_until_it_is_not(server):
    server.flush()
    server.configure(lua_time_limit="1")
    async with opened(server) as (store, _):
        await store.put(make_context())
        with server.client() as client:
            stuck = threading.Thread(target=run_for_ever, args=[server])
            stuck.start()
            wait_until(lambda: is_busy(client), "it is busy")
            for call in (store.get(KEY), store.put(make_context()), store.ping()):
                with pytest.raises(StoreUnavailableError, match="busy running a script"):
                    await call
            client.script_kill()
            stuck.join()
        assert_same((await store.get(KEY)).context, make_context())


def run_for_ever(server):
    with server.client() as client, pytest.raises(redis.ResponseError):
        client.eval("while true do end", 0)


def is_busy(client):
    try:
        return not client.ping()
    except redis.ResponseError:
        return True


async def test_a_replica_that_serves_no_stale_data_is_given_up_until_it_does(server, folder):
    server.flush()
    async with opened(server) as (store, listener):
        await store.put(make_context())
        server.configure(replica_serve_stale_data="no")
        with readonly(server, folder):
            with pytest.raises(StoreUnavailableError, match="MasterDown"):
                await store.get(KEY)
            assert listener.breakers == [True]

        async def is_back():
            try:
                return await store.get(KEY)
            except StoreUnavailableError:
                return None

        await eventually(is_back)
        assert listener.breakers == [True, False]
    server.configure(replica_serve_stale_data="yes")
