"""What clients see of a store that fails: never a wrong answer, no question lost whose image came along.

Every test asks without pause from several threads while the fault comes and goes; the server is never restarted.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from lookonce_server.auth.tenants import new_key

from ..support.http_requests import Known, ask, get_to_know, prepare
from ..support.load import BY_ID, PIXELS, Load, assert_nothing_lost_and_nothing_wrong, state, tally
from ..support.pictures import picture_url
from ..support.redis_server import RedisServer
from ..support.server_process import LookonceServer

PICTURES = range(300, 304)
QUICK = "timeout=0.5&socket_timeout=0.5&socket_connect_timeout=0.5"  # so that a fault costs tests no seconds


@pytest.fixture(scope="module")
def store() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(scope="module")
def running(store: RedisServer) -> Iterator[LookonceServer]:
    with LookonceServer("--store", f"{store.url}?{QUICK}") as server:
        yield server


@pytest.fixture(scope="module")
def met(running: LookonceServer) -> list[Known]:
    return get_to_know(running, PICTURES)


@pytest.fixture
def pictures(running: LookonceServer, store: RedisServer, met: list[Known]) -> list[Known]:
    """Pictures whose contexts are in a store that works, whatever the test before has done to it."""
    running.wait_for("store_breaker_open", 0)
    for known in met:
        assert prepare(running, known.seed).json()["id"] == known.context_id
    return met


def contexts_of(store: RedisServer) -> dict[str, str]:
    """Redis keys of all contexts, by id."""
    with store.client() as client:
        keys = [key.decode() for key in client.scan_iter("lookonce:1:{*}", count=1000)]
    return {key.partition("}")[0].rpartition(":")[2]: key for key in keys}


# --- a store that is away ---------------------------------------------------------------------------------------------


@contextmanager
def killed(store: RedisServer) -> Iterator[None]:
    """A crash, and a start without data."""
    store.kill()
    try:
        yield
    finally:
        store.start()


@contextmanager
def frozen(store: RedisServer) -> Iterator[None]:
    """It does not answer, and its connections stay."""
    store.stop()
    try:
        yield
    finally:
        store.go_on()


@contextmanager
def password_changed(store: RedisServer) -> Iterator[None]:
    """It asks for a password that the server does not have."""
    with store.client() as admin:
        admin.config_set("requirepass", "a new one")
        admin.client_kill_filter(_type="normal", skipme=True)
        try:
            yield
        finally:
            admin.config_set("requirepass", "")


AWAY = [killed, frozen, password_changed]


@pytest.mark.parametrize("fault", AWAY)
def test_while_the_store_is_away_images_are_answered_and_ids_refused(
    running, store, pictures, fault: Callable[[RedisServer], AbstractContextManager[None]]
):
    unavailable = running.metric("context_lookups_total", result="unavailable")
    with Load(running, pictures) as load:
        assert all(reply.hit for reply in load.go_on())
        with fault(store):
            running.wait_for("store_breaker_open", 1)
            meanwhile = load.go_on()
            assert readiness(running) == (200, "unavailable")  # images are answered: a balancer must not take it out
            assert running.get("/health").status_code == 200
            refused = prepare(running, pictures[0].seed)
        load.go_on_until_hits()
    assert set(tally(meanwhile)) == {(PIXELS, 200, "miss", None), (BY_ID, 503, None, "store_unavailable")}
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert running.metric("store_breaker_open") == 0
    assert readiness(running) == (200, "ok")
    assert running.metric("context_lookups_total", result="unavailable") >= unavailable + len(meanwhile)
    assert_nothing_lost_and_nothing_wrong(load.replies, may_forget=fault is killed)


def readiness(server: LookonceServer) -> tuple[int, str]:
    """The status of `/ready`, and what it says of the store."""
    reply = server.get("/ready")
    return reply.status_code, reply.json()["store_state"]


@pytest.fixture(scope="module")
def tiered(store: RedisServer) -> Iterator[LookonceServer]:
    with LookonceServer("--store", f"{store.url}?{QUICK}&hot_bytes=64MiB") as server:
        yield server


@pytest.mark.parametrize("fault", [killed, frozen])
def test_with_a_memory_tier_hits_go_on_while_the_store_is_away(tiered, store, pictures, fault):
    tiered.wait_for("store_breaker_open", 0)
    for known in pictures:
        assert ask(tiered, known.reference()).status == 200  # and in memory from here on
    with Load(tiered, pictures) as load:
        with fault(store):
            tiered.wait_for("store_breaker_open", 1)
            meanwhile = load.go_on()
        tiered.wait_for("store_breaker_open", 0)
        load.go_on_until_hits()
    assert {(reply.answer.cache, reply.answer.tier) for reply in meanwhile} == {("hit", "memory")}
    assert_nothing_lost_and_nothing_wrong(load.replies, may_forget=fault is killed)


def test_a_server_starts_without_its_store_and_answers(pictures):
    """Its password is wrong from the start, and then put right."""
    with RedisServer(password=new_key()) as locked:
        url = f"redis://:not-the-password@127.0.0.1:{locked.port}/0?{QUICK}"
        with LookonceServer("--store", url) as server, Load(server, pictures) as load:
            seen = load.go_on()
            assert readiness(server) == (200, "unavailable")
            server.wait_for("store_breaker_open", 1)
            assert f"the store does not answer: Redis at 127.0.0.1:{locked.port}/0" in server.log()
            assert server.metric("context_lookups_total", result="unavailable") >= len(seen)
            assert server.metric("describes_total") == 0  # there is nowhere to keep what they would make
            assert "not-the-password" not in server.get("/ready").text + server.get("/metrics").text + server.log()
            with locked.client() as client:
                client.config_set("requirepass", "not-the-password")
            load.go_on_until_hits()
            assert readiness(server) == (200, "ok")
    assert set(tally(seen)) == {(PIXELS, 200, "miss", None), (BY_ID, 503, None, "store_unavailable")}
    assert_nothing_lost_and_nothing_wrong(load.replies, may_forget=True)  # it had none


# --- a store that only reads ------------------------------------------------------------------------------------------


@contextmanager
def full(store: RedisServer) -> Iterator[None]:
    """No memory is left, and nothing may be dropped."""
    store.configure(maxmemory="1mb", maxmemory_policy="noeviction")
    try:
        yield
    finally:
        store.configure(maxmemory="0")


@contextmanager
def read_only(store: RedisServer) -> Iterator[None]:
    """It has become a replica, as after a failover that the server was not told of."""
    with RedisServer() as other:
        other.replicate(store)
        with other.client() as client:
            client.replicaof("NO", "ONE")
        store.replicate(other)
        try:
            yield
        finally:
            with store.client() as client:
                client.replicaof("NO", "ONE")


@contextmanager
def without_replicas(store: RedisServer) -> Iterator[None]:
    """Fewer replicas follow it than it wants for writing."""
    store.configure(min_replicas_to_write="1")
    try:
        yield
    finally:
        store.configure(min_replicas_to_write="0")


REFUSING = [
    (full, "oom", range(310, 312)),
    (read_only, "readonly", range(341, 343)),
    (without_replicas, "noreplicas", range(343, 345)),
]


@pytest.mark.parametrize(("fault", "reason", "new"), REFUSING)
def test_while_the_store_cannot_write_hits_go_on_and_new_images_are_answered(
    running, store, pictures, fault, reason, new
):
    described, refused_before = (
        running.metric("describes_total"),
        running.metric("store_writes_refused_total", reason=reason),
    )
    compress = {"on_miss": "compress"}
    with Load(running, pictures) as load:
        with fault(store):
            load.go_on_until_hits()
            meanwhile = load.go_on()
            answers = {seed: [ask(running, picture_url(seed)) for _ in range(2)] for seed in new}
            answers[new[0]].append(ask(running, picture_url(new[0]), lookonce=compress))
            refused = prepare(running, new[0])
            assert readiness(running) == (200, "read_only")
            assert running.metric("store_read_only") == 1
            assert running.metric("store_writes_refused_total", reason=reason) > refused_before
            assert running.metric("describes_total") == described  # in vain: nothing would be kept
            assert running.metric("store_breaker_open") == 0
        load.go_on_until_hits()
    assert set(tally(meanwhile)) == {(PIXELS, 200, "hit", None), (BY_ID, 200, "hit", None)}
    assert_nothing_lost_and_nothing_wrong(load.replies)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "context_not_kept")
    for known in get_to_know(running, new):  # now that it works again, they are described and kept
        assert {(reply.cache, reply.text) for reply in answers[known.seed]} == {("miss", known.full)}
    assert readiness(running) == (200, "ok")


# --- a store that lies ------------------------------------------------------------------------------------------------


def truncated(value: bytes, other: bytes) -> bytes:
    return value[: len(value) // 2]


def only_its_head(value: bytes, other: bytes) -> bytes:
    return value[:100]


def without_its_last_byte(value: bytes, other: bytes) -> bytes:
    return value[:-1]


def flipped_in_the_middle(value: bytes, other: bytes) -> bytes:
    return _flipped(value, len(value) // 2)


def flipped_in_the_head(value: bytes, other: bytes) -> bytes:
    return _flipped(value, 60)


def of_the_next_version(value: bytes, other: bytes) -> bytes:
    return value[:8] + (int.from_bytes(value[8:12], "little") + 1).to_bytes(4, "little") + value[12:]


def of_another_picture(value: bytes, other: bytes) -> bytes:
    return other


def of_another_program(value: bytes, other: bytes) -> bytes:
    return b"\x80\x04\x95 something else"


def _flipped(value: bytes, place: int) -> bytes:
    return value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]


DAMAGE = {
    truncated: "truncated",
    only_its_head: "truncated",
    without_its_last_byte: "truncated",
    flipped_in_the_middle: "checksum",
    flipped_in_the_head: "checksum",
    of_the_next_version: "version",
    of_another_picture: "foreign",
    of_another_program: "foreign",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_value_is_a_miss_and_is_made_anew(running, store, pictures, damage):
    victim, other, *_ = pictures
    counted = running.metric("context_damaged_total", reason=DAMAGE[damage])
    keys = contexts_of(store)
    with store.client() as client:
        good = client.get(keys[victim.context_id])
        client.set(keys[victim.context_id], damage(good, client.get(keys[other.context_id])))
        by_id = ask(running, victim.reference())
        by_image = ask(running, picture_url(victim.seed))
        healed = ask(running, picture_url(victim.seed))
    assert (by_id.status, by_id.code) == (404, "context_not_found")
    assert (by_image.status, by_image.cache, by_image.text) == (200, "miss", victim.full)
    assert (healed.status, healed.cache, healed.text) == (200, "hit", victim.hit)
    assert ask(running, victim.reference()).text == victim.hit
    assert running.metric("context_damaged_total", reason=DAMAGE[damage]) > counted


def test_every_value_damaged_under_load_is_never_a_wrong_answer(running, store, pictures):
    keys = contexts_of(store)
    with Load(running, pictures) as load, store.client() as client:
        for damage in DAMAGE:
            values = [client.get(keys[known.context_id]) for known in pictures]
            for i, known in enumerate(pictures):
                if values[i] and values[i - 1]:
                    client.set(keys[known.context_id], damage(values[i], values[i - 1]))
            load.go_on(3)
        load.go_on_until_hits()
    assert {state(reply)[0] for reply in load.replies} == {200, 404}
    assert_nothing_lost_and_nothing_wrong(load.replies, may_forget=True)


def test_a_key_of_another_type_is_a_miss(running, store, pictures):
    victim = pictures[0]
    key = contexts_of(store)[victim.context_id]
    with store.client() as client:
        client.delete(key)
        client.rpush(key, "no", "string")
    assert ask(running, picture_url(victim.seed)).text == victim.full
    assert ask(running, picture_url(victim.seed)).text == victim.hit
