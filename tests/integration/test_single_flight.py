"""One describe pass an image, among three servers that share a store, whatever becomes of the one that makes it."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from ..support.http_requests import Reply, ask, forget, question_about, reply_of
from ..support.pictures import messages, picture_url
from ..support.redis_server import RedisServer, wait_until
from ..support.server_process import MODEL, LookonceServer

pytestmark = pytest.mark.extended
QUESTIONS = 1000
CONNECTIONS = 150
HITS = 0.9  # share of the questions about a new image that were answered from its context
# Many turns of the engine that are not the describe pass's: without the end token.
BUSY = {"n": 8, "max_tokens": 900, "logit_bias": {"2": -100}}


@pytest.fixture(scope="module")
def store() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(scope="module")
def three(store: RedisServer) -> Iterator[list[LookonceServer]]:
    servers = [LookonceServer("--store", store.url, "--max-queue", "1000") for _ in range(3)]
    with servers[0], servers[1], servers[2]:
        yield servers


def described(servers: Sequence[LookonceServer]) -> float:
    return sum(server.metric("describes_total", result="done") for server in servers)


async def ask_all(servers: Sequence[LookonceServer], image: str, count: int) -> list[Reply]:
    """The same question again and again, over many connections to all servers in turn."""
    limits = httpx2.Limits(max_connections=CONNECTIONS)
    free = asyncio.Semaphore(CONNECTIONS)
    async with httpx2.AsyncClient(limits=limits, timeout=120, trust_env=False) as client:

        async def one(i: int) -> Reply:
            url = f"{servers[i % len(servers)].url}/v1/chat/completions"
            async with free:
                return reply_of(await client.post(url, json=question_about(image, max_tokens=4)))

        return await asyncio.gather(*(one(i) for i in range(count)))


def right_answers(server: LookonceServer, image: str) -> dict[str, str]:
    """The answer from a context and the one from the image, found out by one who asks alone."""
    hit = ask(server, image, max_tokens=4)
    assert forget(server, hit.context_id).status_code == 200
    miss = ask(server, image, max_tokens=4)
    assert (hit.cache, miss.cache, hit.context_id) == ("hit", "miss", miss.context_id)
    return {"hit": hit.text or "", "miss": miss.text or ""}


def assert_right(replies: Sequence[Reply], right: dict[str, str]) -> None:
    assert {reply.status for reply in replies} == {200}
    assert all(right[reply.cache or ""] == reply.text for reply in replies)


def test_a_thousand_questions_about_a_new_image_cause_one_describe_pass(three):
    image = picture_url(350)
    replies = asyncio.run(ask_all(three, image, QUESTIONS))
    assert described(three) == sum(server.metric("describes_total") for server in three) == 1
    assert len({reply.context_id for reply in replies}) == 1
    assert_right(replies, right_answers(three[0], image))
    hits = sum(reply.cache == "hit" for reply in replies)
    assert hits >= HITS * QUESTIONS, f"{hits} of {QUESTIONS}"


# --- the one who makes it fails ---------------------------------------------------------------------------------------


@contextmanager
def describing(maker: LookonceServer, store: RedisServer, image: str) -> Iterator[Future[Reply]]:
    """The server is in the middle of the image's describe pass, and frozen; the future is the reply to who asked it."""
    wait_until(lambda: not leases(store), "nothing else is described")
    with ThreadPoolExecutor(1) as pool, maker.openai() as client:
        busy = client.chat.completions.create(model=MODEL, messages=messages("xyzzy", None), stream=True, **BUSY)
        next(iter(busy))
        passes = maker.metric("queue_depth")
        asked = pool.submit(ask, maker, image, max_tokens=4, lookonce={"on_miss": "compress"})
        wait_until(lambda: bool(leases(store)), "it has the lease")
        wait_until(lambda: maker.metric("queue_depth") > passes, "the pass is the engine's")
        maker.freeze()
        busy.close()
        try:
            assert len(leases(store)) == 1  # still
            yield asked
        finally:
            maker.go_on()


def leases(store: RedisServer) -> list[bytes]:
    with store.client() as client:
        return list(client.scan_iter("lookonce:1:*:lease", count=1000))


def values(store: RedisServer) -> dict[bytes, bytes]:
    with store.client() as client:
        keys = list(client.scan_iter("lookonce:1:{*}", count=1000))
        return dict(zip(keys, client.mget(keys), strict=True))


def refused_puts(server: LookonceServer) -> float:
    return server.metric("store_operations_total", operation="put", outcome="refused")


@contextmanager
def waiting(servers: Sequence[LookonceServer], image: str, count: int) -> Iterator[list[Future[Reply]]]:
    """So many questions at each of the servers wait for a describe pass elsewhere."""
    before = [server.metric("describe_waits_total", where="replica") for server in servers]
    with ThreadPoolExecutor(count * len(servers)) as pool:
        asked = [pool.submit(ask, server, image, max_tokens=4) for server in servers for _ in range(count)]
        for server, waited in zip(servers, before, strict=True):
            server.wait_for("describe_waits_total", waited + count, where="replica")
        yield asked


def test_when_the_one_who_makes_it_is_killed_another_takes_over(three, store):
    maker, *survivors = three
    image = picture_url(351)
    before = described(survivors)
    with describing(maker, store, image) as cut_off, waiting(survivors, image, 8) as asked:
        maker.kill()
        replies = [one.result() for one in asked]  # once the lease has run out
    maker.start()
    assert isinstance(cut_off.exception(), httpx2.TransportError)
    assert described(survivors) == before + 1
    assert sum(reply.cache == "hit" for reply in replies) >= len(replies) - len(survivors)
    assert_right(replies, right_answers(maker, image))


def test_one_who_was_stopped_and_comes_back_late_changes_nothing(three, store):
    maker, *survivors = three
    image = picture_url(352)
    refused, before = refused_puts(maker), described(survivors)
    with describing(maker, store, image) as late, waiting(survivors, image, 4) as asked:
        with store.client() as client:
            client.delete(*leases(store))  # it runs out
        replies = [one.result() for one in asked]
        assert described(survivors) == before + 1
        kept = values(store)
        maker.go_on()
        replies.append(late.result())
    maker.wait_for("store_operations_total", refused + 1, operation="put", outcome="refused")
    assert values(store) == kept  # to the byte, and a context tells when it was made
    assert late.result().cache == "miss"
    right = right_answers(maker, image)
    assert late.result().text == right["hit"]  # it stands on the context that could not be kept
    assert_right(replies[:-1], right)


def test_a_pause_of_the_server_and_of_the_store_that_outlasts_the_lease_throws_no_pass_away(three, store):
    maker, *others = three
    image = picture_url(354)
    before, refused = described(others), refused_puts(maker)
    with describing(maker, store, image) as late:
        with store.client() as client:
            client.pexpire(*leases(store), 1)  # now, not in ten seconds
        wait_until(lambda: not leases(store), "it has run out")
        store.stop()
        try:
            maker.go_on()
            assert late.result().status == 200  # once the store's time is up
        finally:
            store.go_on()
    wait_until(lambda: any(late.result().context_id.encode() in key for key in values(store)), "it is stored")
    hit = ask(others[0], image, max_tokens=4)
    assert (hit.cache, hit.text) == ("hit", late.result().text)
    assert described(others) == before
    assert refused_puts(maker) == refused


def test_told_to_stop_a_server_first_ends_the_describe_pass_that_runs(store, three):
    image = picture_url(355)
    with LookonceServer("--store", f"{store.url}?timeout=60&socket_timeout=60") as ending:
        miss = ask(ending, image, max_tokens=1)
        store.stop()  # so that the pass is not over too soon
        try:
            ending.begin_to_stop()
            wait_until(lambda: ending.get("/ready").status_code == 503, "it begins to end")
        finally:
            store.go_on()
        assert ending.wait() == 0
    hit = ask(three[0], f"lookonce:{miss.context_id}", max_tokens=1)
    assert (miss.cache, hit.status, hit.cache) == ("miss", 200, "hit")
    assert not leases(store)


def test_what_is_deleted_while_it_is_described_does_not_come_back(three, store):
    maker, other, _ = three
    image = picture_url(353)
    assert ask(other, image, max_tokens=4).cache == "miss"
    known = ask(other, image, max_tokens=4)
    assert (known.cache, forget(other, known.context_id).status_code) == ("hit", 200)
    refused = refused_puts(maker)
    with describing(maker, store, image) as asked:
        assert forget(other, known.context_id).status_code == 404  # there is none yet; who makes it loses the lease
        maker.go_on()
        assert (asked.result().status, asked.result().text) == (200, known.text)
    maker.wait_for("store_operations_total", refused + 1, operation="put", outcome="refused")
    assert ask(other, f"lookonce:{known.context_id}").code == "context_not_found"
    assert [ask(other, image).cache for _ in range(2)] == ["miss", "hit"]
