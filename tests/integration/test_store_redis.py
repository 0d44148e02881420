"""What only the Redis store promises; what all stores do is in test_stores.py."""

import asyncio
import re
from pathlib import Path

import pytest

from lookonce_cache import ContextTooLargeError, LeaseLostError, StoreConfigError, StoreUnavailableError, encode
from lookonce_cache import open_store as open_

from ..support.cache_samples import assert_same, context_key, make_context
from ..support.network import make_certificate
from ..support.redis_server import RedisServer
from ..support.stores import ACL_RULES, PATIENTLY, Listener, acl_url, eventually, listed, put_all

pytestmark = pytest.mark.anyio

KEY = context_key()
INDEX = "lookonce:1:index:acme"


@pytest.fixture
async def listener():
    return Listener()


@pytest.fixture
async def store(redis_server, listener, monkeypatch):
    monkeypatch.setattr("lookonce_cache.stores.redis.store.INDEX_SECONDS", 60)
    store = open_(redis_server.url + PATIENTLY, ttl=60, observer=listener)
    yield store
    await store.close()


def redis_key(key):
    return f"lookonce:1:{{{key.tenant}:{key.id}}}"


# ---- what is in Redis


async def test_a_context_is_one_key_with_one_value(redis_server, store):
    lease = await store.lease(KEY, 60)
    await store.put(make_context("unleased"))
    await store.put(make_context(), lease)
    with redis_server.client() as client:
        client.set("somebody else's", "value")
        assert client.get(redis_key(KEY)) == encode(make_context())
        assert 0 < client.pttl(redis_key(KEY)) <= 60_000
        keys = {redis_key(KEY), redis_key(context_key("unleased")), INDEX, "somebody else's"}
        assert {key.decode() for key in client.keys("*")} == keys
    assert len(await listed(store)) == 2


async def test_a_delete_leaves_nothing(redis_server, store):
    await store.put(make_context())
    await store.lease(KEY, 60)
    await store.delete(KEY)
    with redis_server.client() as client:
        assert client.keys("*") == []


async def test_its_memory_is_that_of_redis(redis_server, store):
    await store.put(make_context())
    redis_server.configure(maxmemory="50mb")
    try:
        (usage,) = await store.usage()
        with redis_server.client() as client:
            memory, stats = client.info("memory"), client.info("stats")
        assert (usage.store, usage.max_bytes) == ("redis", 50 * 1024 * 1024)
        assert usage.evicted_keys == stats["evicted_keys"]
        assert usage.node in redis_server.url
        assert usage.used_bytes == pytest.approx(memory["used_memory"], rel=0.2)
    finally:
        redis_server.configure(maxmemory="0")
    assert (await store.usage())[0].max_bytes is None


async def test_a_redis_that_is_away_or_does_not_tell_has_no_memory_to_show(redis_server):
    url = acl_url(redis_server)
    silent = open_(url + PATIENTLY)
    away = open_("redis://127.0.0.1:1")
    try:
        assert list(await silent.usage()) == list(await away.usage()) == []
    finally:
        await silent.close()
        await away.close()


async def test_two_stores_see_the_same(redis_server, store):
    other = open_(redis_server.url + PATIENTLY, ttl=60)
    lease = await other.lease(KEY, 60)
    assert await store.lease(KEY, 60) is None
    await store.delete(KEY)
    with pytest.raises(LeaseLostError):
        await other.put(make_context(), lease)
    await store.put(make_context())
    assert_same((await other.get(KEY)).context, make_context())
    await other.close()


async def test_two_stores_that_write_one_context_leave_one_whole_one(redis_server, store):
    other = open_(redis_server.url + PATIENTLY, ttl=60)
    versions = [make_context(description=str(number)) for number in range(2)]
    for _ in range(20):
        await asyncio.gather(store.put(versions[0]), other.put(versions[1]))
        one, another = (await store.get(KEY)).context, (await other.get(KEY)).context
        assert_same(one, another)
        assert_same(one, versions[int(one.description)])
    await other.close()


async def test_a_get_is_one_command(redis_server, store):
    await store.put(make_context())
    with redis_server.client() as client:
        client.config_resetstat()
        await store.get(KEY)
        stats = client.info("commandstats")
    assert {name for name in stats if "config" not in name and "info" not in name} == {"cmdstat_getex"}
    assert stats["cmdstat_getex"]["calls"] == 1


async def test_it_sends_the_documented_commands_and_none_that_walks_the_database(redis_server, store):
    for_ever = open_(redis_server.url.removesuffix("0") + "1" + PATIENTLY)
    with redis_server.client() as client:
        client.script_flush()
        client.config_resetstat()
    await put_all(store, range(70))
    with redis_server.client() as client:
        client.unlink(redis_key(context_key(0)))
    for opened in (store, for_ever):
        await opened.put(make_context(), await opened.lease(KEY, 60))
        await opened.get(KEY)
        await opened.touch(KEY)
        await opened.release(await opened.lease(KEY, 60))
    await listed(store)
    await store.stats("acme")
    await store.state(KEY)
    await store.delete(KEY)
    await store.ping()
    with redis_server.client() as client:
        commands = {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
    connecting = {name for name in commands if name.startswith(("client", "hello"))}
    assert commands - connecting - {"info", "config", "config|resetstat"} == {
        rule.removeprefix("+") for rule in ACL_RULES[1:]
    }
    await for_ever.close()


def test_the_documented_rights_are_those_that_the_suite_runs_with():
    page = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
    documented = page.partition("An ACL user needs keys")[2].partition("; in a cluster also")[0]
    assert f"`{ACL_RULES[0]}`" in documented
    assert set(re.findall(r"\+\w+", documented)) == set(ACL_RULES[1:])


async def test_the_documented_rights_are_enough_on_a_cluster(redis_cluster):
    for master in redis_cluster.masters:
        acl_url(master, "+cluster|slots", "+cluster|info", "+asking")
    store = open_(redis_cluster.url.replace("//", "//lookonce:s3cret@") + PATIENTLY, ttl=60)
    await store.ping()
    await put_all(store, range(20))
    await store.put(make_context(), await store.lease(KEY, 60))
    assert len(await listed(store)) == 21
    assert await store.delete(KEY)
    await store.close()


# ---- damaged values

DAMAGES = {
    "garbage": (lambda value: b"garbage", "foreign"),
    "nothing": (lambda value: b"LO", "foreign"),
    "cut in the head": (lambda value: value[:20], "truncated"),
    "cut by a byte": (lambda value: value[:-1], "truncated"),
    "cut by much": (lambda value: value[:-700], "truncated"),
    "a byte more": (lambda value: value + b"\0", "trailing"),
    "changed head": (lambda value: value[:50] + b"?" + value[51:], "checksum"),
    "changed tensor": (lambda value: value[:-200] + bytes([value[-200] ^ 1]) + value[-199:], "checksum"),
    "newer format": (lambda value: value[:8] + b"\2" + value[9:], "version"),
    "another context": (lambda value: encode(make_context("another")), "foreign"),
    "another tenant's": (lambda value: encode(make_context(tenant="globex")), "foreign"),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_value_is_a_miss_and_counted_until_it_is_put_again(redis_server, store, listener, damage):
    change, reason = DAMAGES[damage]
    await store.put(make_context())
    with redis_server.client() as client:
        client.set(redis_key(KEY), change(encode(make_context())))
    assert await store.get(KEY) is None
    assert listener.damage == [("redis", reason)]
    assert listener.outcomes("redis", "get") == [("get", "miss")]
    with redis_server.client() as client:
        assert client.exists(redis_key(KEY))  # deleting it could delete what another server has just put
    await store.put(make_context(), await store.lease(KEY, 60))
    assert_same((await store.get(KEY)).context, make_context())
    assert len(listener.damage) == 1


@pytest.mark.parametrize("damage", ["garbage", "changed head", "newer format", "another context", "another tenant's"])
async def test_a_damaged_value_is_in_no_list_and_hides_no_other(redis_server, store, listener, damage):
    change, reason = DAMAGES[damage]
    await put_all(store, ["good", "a context"])
    with redis_server.client() as client:
        client.set(redis_key(KEY), change(encode(make_context())))
    assert await store.info(KEY) is None
    assert await listed(store) == [context_key("good").id]
    assert listener.damage == [("redis", reason)] * 2


async def test_a_key_of_another_type_is_a_miss(redis_server, store, listener):
    await put_all(store, ["good", "a context"])
    with redis_server.client() as client:
        client.delete(redis_key(KEY))
        client.lpush(redis_key(KEY), "x")
    assert await store.get(KEY) is None
    assert await store.info(KEY) is None
    assert await listed(store) == [context_key("good").id]
    assert listener.damage == [("redis", "foreign")] * 3
    assert (await store.stats("acme")).contexts == 1
    await store.put(make_context())
    assert_same((await store.get(KEY)).context, make_context())
    assert listener.breakers == []


async def test_an_index_of_another_type_is_none_and_is_replaced(redis_server, store):
    await store.put(make_context())
    with redis_server.client() as client:
        client.set(INDEX, "x")
    assert_same((await store.get(KEY)).context, make_context())
    assert await listed(store) == []
    await store.put(make_context("other"))
    assert await listed(store) == [context_key("other").id]
    assert await store.delete(KEY)


# ---- the index


async def test_an_evicted_index_only_hides_contexts_from_lists(redis_server, store):
    await put_all(store, ["a context", "other"])
    with redis_server.client() as client:
        client.delete(INDEX)
    assert await listed(store) == []
    assert_same((await store.get(KEY)).context, make_context())
    assert await store.info(KEY)
    await store.put(make_context())
    assert await listed(store) == [KEY.id]


async def test_members_that_are_gone_leave_the_index_when_it_is_listed(redis_server, store):
    await put_all(store, range(200))
    with redis_server.client() as client:
        client.unlink(*(redis_key(context_key(name)) for name in range(200) if name % 3))
        alive = sorted(context_key(name).id for name in range(0, 200, 3))
        assert sorted(await listed(store, limit=200)) == alive
        assert client.zcard(INDEX) == len(alive)


@pytest.mark.parametrize("look", ["list", "stats"])
async def test_looking_drops_what_is_gone(redis_server, store, look):
    await put_all(store, range(100))
    with redis_server.client() as client:
        client.unlink(*(redis_key(context_key(name)) for name in range(100)))
        await getattr(store, look)("acme")
        assert client.zcard(INDEX) == 0


async def test_what_expired_leaves_the_index_a_little_with_each_put(redis_server, store):
    with redis_server.client() as client:
        client.zadd(INDEX, {context_key(name).id: name for name in range(500)})
        await store.put(make_context("first"))
        assert 400 < client.zcard(INDEX) <= 501  # no put cleans it all

        async def clean():
            await store.put(make_context("first"))
            return client.zcard(INDEX) < 50

        await eventually(clean)
    assert await listed(store) == [context_key("first").id]


async def test_contexts_that_were_put_at_one_moment_are_all_listed(redis_server, store):
    ids = await put_all(store, range(150))
    with redis_server.client() as client:
        client.zadd(INDEX, dict.fromkeys(ids, 1_700_000_000.5))
    for limit in (1, 40, 1000):
        assert sorted(await listed(store, limit=limit)) == ids


# ---- limits, credentials, TLS


async def test_it_refuses_what_is_larger_than_its_limit(redis_server):
    store = open_(redis_server.url + PATIENTLY + "&max_context_bytes=100")
    with pytest.raises(ContextTooLargeError, match="exceeds max_context_bytes=100"):
        await store.put(make_context())
    await store.close()


async def test_a_server_that_no_trusted_authority_vouches_for_is_refused(tls_port, tmp_path):
    url = f"rediss://127.0.0.1:{tls_port}/0{PATIENTLY}"
    for authority in ("", f"&ssl_ca_certs={make_certificate(tmp_path, 'another').path}"):
        store = open_(url + authority)
        with pytest.raises(StoreUnavailableError, match=r"(?i)certificate"):
            await store.get(KEY)
        await store.close()


async def test_a_server_under_another_name_is_refused(tls_port, certificate):
    store = open_(f"rediss://localhost:{tls_port}/0{PATIENTLY}&ssl_ca_certs={certificate.path}")
    with pytest.raises(StoreUnavailableError, match=r"(?i)certificate"):
        await store.get(KEY)
    await store.close()


async def test_no_error_has_a_password():
    with RedisServer(password="s3cret") as server:  # noqa: S106
        good = open_(server.url)
        await good.put(make_context())
        wrong = open_(server.url.replace("s3cret", "wr0ng"))
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


async def test_a_server_that_echoes_the_password_is_not_quoted():
    with RedisServer(arguments=["--rename-command", "HELLO", ""]) as server:
        store = open_(server.url.replace("//", "//:s3cret@"))
        with pytest.raises(StoreUnavailableError, match=r"HELLO|AUTH") as caught:
            await store.ping()
        await store.close()
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_bad_url_is_found_before_anything_connects():
    with pytest.raises(StoreConfigError):
        open_("redis+cluster://127.0.0.1:1/3")


async def test_contexts_survive_a_crash_of_a_server_that_persists():
    with RedisServer(persistent=True) as server:
        store = open_(server.url + PATIENTLY, ttl=60)
        await store.put(make_context())
        server.restart()
        assert_same((await store.get(KEY)).context, make_context())
        await store.close()
