"""Single flight: who makes a context, who waits for it and how long, and what becomes of both when something fails."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from lookonce_cache import (
    CompressedContext,
    ContextKey,
    Lease,
    MemoryStore,
    Store,
    StoreUnavailableError,
    WritesRefusedError,
    open_store,
)
from lookonce_server.engines.base import unheard
from lookonce_server.errors import ContextNotKeptError, EngineError, ShuttingDownError
from lookonce_server.images.sources import ImageBytes
from lookonce_server.metrics import Metrics
from lookonce_server.sessions import describe_queue
from lookonce_server.sessions.describe_queue import DescribeQueue

from ....support.cache_samples import context_key
from ....support.samples import png, tasks_of

pytestmark = pytest.mark.anyio
QUESTION = "How many objects are there?"


@pytest.fixture
async def context(bench) -> CompressedContext:
    return await bench.create(png(60))


class Describing:
    """A describe pass that ends when it is told to, and counts how often it was begun."""

    def __init__(self, context: CompressedContext) -> None:
        self.context = context
        self.begun = 0
        self.is_under_way = asyncio.Event()
        self.may_end = asyncio.Event()

    async def __call__(self, heard=unheard) -> CompressedContext:
        self.begun += 1
        self.is_under_way.set()
        await self.may_end.wait()
        return self.context


@pytest.fixture
async def describing(context) -> Describing:
    return Describing(context)


@pytest.fixture
async def make_maker() -> AsyncIterator[Callable[..., DescribeQueue]]:
    """Makers, each of a process of its own as far as the store can tell."""
    makers: list[DescribeQueue] = []

    def build(store: Store | None = None) -> DescribeQueue:
        makers.append(DescribeQueue(store or MemoryStore(), Metrics()))
        return makers[-1]

    yield build
    for maker in makers:
        await maker.close()
    assert tasks_of(DescribeQueue) == []


def counted(maker: DescribeQueue, name: str, **labels: str) -> float:
    return maker._metrics.registry.get_sample_value(f"lookonce_{name}", labels) or 0.0


async def waits(maker: DescribeQueue, where: str, count: int) -> None:
    """Return once so many have begun to wait."""
    while counted(maker, "describe_waits_total", where=where) < count:  # noqa: ASYNC110 - it tells no event
        await asyncio.sleep(0.001)


async def leased_elsewhere(store: Store, key: ContextKey, seconds: float = 60) -> Lease:
    lease = await store.lease(key, seconds)
    assert lease is not None
    return lease


async def all_of(work: list[Awaitable]) -> list:
    async with asyncio.timeout(20):
        return await asyncio.gather(*work)


# --- one pass ---------------------------------------------------------------------------------------------------------


async def test_all_who_want_a_context_share_one_pass(make_maker, describing):
    maker, key = make_maker(), describing.context.key
    tasks = {maker.make(key, describing).task for _ in range(10)}
    waiting = [asyncio.create_task(maker.until_made(key)) for _ in range(10)]
    await waits(maker, "process", 10)
    describing.may_end.set()
    assert await all_of(waiting) == [True] * 10
    assert await all_of(list(tasks)) == [describing.context]
    assert describing.begun == 1
    assert await maker.until_made(key)  # there is something to look for
    assert await maker._store.get(key)


async def test_two_processes_share_one_pass(make_maker, describing):
    store = MemoryStore()
    first, second = make_maker(store), make_maker(store)
    key = describing.context.key
    tasks = [first.make(key, describing).task, second.make(key, describing).task]
    await describing.is_under_way.wait()
    waiting = asyncio.create_task(second.until_made(key))
    await waits(second, "process", 1)
    describing.may_end.set()
    assert [found.id for found in await all_of(tasks)] == [key.id] * 2
    assert await waiting
    assert describing.begun == 1
    assert sum(counted(maker, "describes_total", result="done") for maker in (first, second)) == 1


async def test_a_context_that_came_before_the_turn_is_not_made_again(make_maker, describing):
    maker = make_maker()
    await maker._store.put(describing.context)
    assert (await maker.make(describing.context.key, describing).task).id == describing.context.id
    assert describing.begun == 0


async def test_the_lease_is_renewed_while_the_pass_runs(make_maker, describing, monkeypatch):
    monkeypatch.setattr(describe_queue, "LEASE_SECONDS", 0.3)
    maker, key = make_maker(), describing.context.key
    task = maker.make(key, describing).task
    await describing.is_under_way.wait()
    for _ in range(10):
        await asyncio.sleep(0.1)
        assert await maker._store.lease(key, 60) is None
    describing.may_end.set()
    await task
    assert await maker._store.state(key) == "kept"


async def test_what_was_deleted_while_it_was_made_does_not_come_back(make_maker, describing):
    maker, key = make_maker(), describing.context.key
    task = maker.make(key, describing).task
    await describing.is_under_way.wait()
    await maker._store.delete(key)
    describing.may_end.set()
    assert await task is describing.context  # whoever asked before is answered
    assert await maker._store.state(key) == "absent"


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [EngineError("no"), RuntimeError("no"), MemoryError()])
async def test_a_pass_that_fails_frees_the_key(make_maker, describing, error):
    maker, key = make_maker(), describing.context.key

    async def fails(heard) -> CompressedContext:
        raise error

    with pytest.raises(EngineError):  # which an answer by the full pass is the remedy for, whatever it was
        await maker.make(key, fails).task
    assert counted(maker, "describes_total", result="failed") == 1
    assert await maker._store.state(key) == "absent"
    assert not await maker.until_made(key)
    describing.may_end.set()
    assert await maker.make(key, describing).task is describing.context


@pytest.mark.parametrize("error", [EngineError("no"), RuntimeError("no")])
async def test_a_pass_that_fails_costs_no_answer(bench, error, monkeypatch):
    expected = await bench.ask(png(61), QUESTION)
    await bench.contexts.close()

    async def fails(*_) -> None:
        raise error

    monkeypatch.setattr(bench.contexts._describer, "describe", fails)
    asked = await all_of([bench.ask(png(61), QUESTION, on_miss=on_miss) for on_miss in ("full", "compress") * 5])
    assert [answer.pieces for answer in asked] == [expected.pieces] * 10


async def test_without_a_store_it_is_one_pass_a_process(make_maker, describing, dead_redis):
    store = open_store(dead_redis)
    maker, key = make_maker(store), describing.context.key
    tasks = [maker.make(key, describing).task for _ in range(5)]
    describing.may_end.set()
    assert await all_of(tasks) == [describing.context] * 5
    assert describing.begun == 1
    await store.close()


async def test_without_a_store_nothing_is_made_behind(make_maker, describing, dead_redis):
    store = open_store(dead_redis)
    after = asyncio.Event()
    after.set()
    maker = make_maker(store)
    with pytest.raises(StoreUnavailableError):
        await maker.make(describing.context.key, describing, after=after).task
    assert describing.begun == 0
    await store.close()


@pytest.fixture(params=["leases are refused", "puts are refused", "too large"])
def keeping_nothing(request) -> Store:
    """A store that answers, and keeps no context: it takes no writes; nothing but leases; or has no room."""

    class Refusing(MemoryStore):
        async def lease(self, key, seconds):
            if request.param == "leases are refused":
                raise WritesRefusedError("misconf", "no")
            return await super().lease(key, seconds)

        async def put(self, context, lease=None, *, ttl=None):
            raise WritesRefusedError("misconf", "no")

    return MemoryStore(max_bytes=100) if request.param == "too large" else Refusing()


async def test_for_a_store_that_keeps_nothing_an_image_is_described_once_at_most(
    make_maker, describing, keeping_nothing
):
    maker, key = make_maker(keeping_nothing), describing.context.key
    describing.may_end.set()
    after = asyncio.Event()
    after.set()
    wanted = [{"after": after}, {"must_keep": True}, {}] * 5
    results = [
        (await asyncio.gather(maker.make(key, describing, **one).task, return_exceptions=True))[0] for one in wanted
    ]
    assert describing.begun <= 1
    assert results[0] is describing.context or isinstance(results[0], WritesRefusedError)
    assert {type(result) for result in results[1:]} <= {WritesRefusedError, ContextNotKeptError}
    assert await maker._store.state(key) == "absent"


async def test_what_was_not_kept_is_described_again_after_a_while(make_maker, describing, keeping_nothing, monkeypatch):
    monkeypatch.setattr(describe_queue, "HELD_OFF_SECONDS", 0)
    monkeypatch.setattr(describe_queue, "HELD_OFF_LONGER_SECONDS", 0)
    maker, key = make_maker(keeping_nothing), describing.context.key
    describing.may_end.set()
    for _ in range(2):
        await asyncio.gather(maker.make(key, describing).task, return_exceptions=True)
    assert describing.begun in (0, 2)
    assert len(maker._held_off) <= 1


async def test_who_lost_the_lease_to_a_delete_may_describe_again_at_once(make_maker, describing):
    maker, key = make_maker(), describing.context.key
    task = maker.make(key, describing).task
    await describing.is_under_way.wait()
    await maker._store.delete(key)
    describing.may_end.set()
    await task
    await maker.make(key, describing).task
    assert describing.begun == 2
    assert await maker._store.state(key) == "kept"


async def test_a_pass_that_outlived_its_lease_is_kept(make_maker, describing, monkeypatch):
    """As after a pause of the process or the store: nobody else has taken the lease."""
    monkeypatch.setattr(describe_queue, "LEASE_SECONDS", 0.02)
    monkeypatch.setattr(DescribeQueue, "_renew", lambda *_: asyncio.sleep(60))
    maker, key = make_maker(), describing.context.key
    task = maker.make(key, describing).task
    await describing.is_under_way.wait()
    while await maker._store.state(key) == "leased":  # noqa: ASYNC110 - it tells no event
        await asyncio.sleep(0.005)
    describing.may_end.set()
    await task
    assert await maker._store.state(key) == "kept"


async def test_a_context_is_stored_once_a_store_that_was_away_is_back(make_maker, describing):
    class Away(MemoryStore):
        is_away = True

        async def put(self, context, lease=None, *, ttl=None):
            if self.is_away:
                raise StoreUnavailableError("no")
            await super().put(context, lease, ttl=ttl)

    store = Away()
    maker, key = make_maker(store), describing.context.key
    describing.may_end.set()
    assert await maker.make(key, describing).task is describing.context  # whoever waits is answered at once
    assert await store.state(key) == "leased"
    assert maker.is_busy
    maker.end()
    store.is_away = False
    async with asyncio.timeout(20):
        while maker.is_busy:  # noqa: ASYNC110 - it tells no event
            await asyncio.sleep(0.01)
    assert await store.state(key) == "kept"
    assert describing.begun == 1


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_told_to_end_it_finishes_what_runs_and_begins_nothing_behind(make_maker, bench):
    contexts = [await bench.create(png(seed)) for seed in (63, 64, 65)]
    running, queued, waiting = (Describing(context) for context in contexts)
    maker, due = make_maker(), asyncio.Event()
    due.set()
    makings = {
        "running": maker.make(running.context.key, heard_at_once(running), after=due),
        "queued": maker.make(queued.context.key, queued, after=due),
        "waiting": maker.make(waiting.context.key, waiting, after=asyncio.Event()),
    }
    await running.is_under_way.wait()
    await queued.is_under_way.wait()
    maker.end()
    late = maker.make(context_key("late"), Describing(contexts[0]), after=due)
    assert maker.is_busy
    running.may_end.set()
    assert await makings["running"].task is running.context
    assert await maker._store.state(running.context.key) == "kept"
    await asyncio.wait([makings["queued"].task, makings["waiting"].task], timeout=20)
    assert [makings[name].task.cancelled() for name in ("queued", "waiting")] == [True, True]
    with pytest.raises(ShuttingDownError):
        await late.task
    assert not maker.is_busy


async def test_told_to_end_it_finishes_the_next_in_line_where_none_runs(make_maker, bench):
    contexts = [await bench.create(png(seed)) for seed in (63, 64)]
    first, second = (Describing(context) for context in contexts)
    maker, due = make_maker(), asyncio.Event()
    due.set()
    makings = [maker.make(one.context.key, one, after=due) for one in (first, second)]
    await second.is_under_way.wait()
    maker.end()
    first.may_end.set()
    await asyncio.wait([makings[0].task], timeout=20)
    assert not makings[0].task.cancelled()
    assert makings[0].task.result() is first.context
    await asyncio.wait([makings[1].task], timeout=20)
    assert makings[1].task.cancelled()


async def test_who_waits_for_a_pass_that_is_dropped_at_the_end_is_told_or_answered(bench):
    expected = await bench.ask(png(66), QUESTION)
    await bench.contexts.close()
    key = bench.contexts.identity("default", png(66)).key()
    making_it = bench.contexts.maker.make(key, Describing(None), after=asyncio.Event())
    asked = asyncio.create_task(bench.ask(png(66), QUESTION))
    preparing = asyncio.create_task(anext(bench.contexts.prepare("default", ImageBytes(png(66), "image_url"))))
    await waits(bench.contexts.maker, "process", 1)
    await asyncio.sleep(0.05)  # for the other to come as far, which nothing tells
    bench.contexts.maker.end()
    assert (await asked).pieces == expected.pieces
    with pytest.raises(ShuttingDownError):
        await preparing
    assert making_it.task.cancelled()


def heard_at_once(describing: Describing) -> Callable[..., Awaitable[CompressedContext]]:
    """The same, in an engine that has begun it."""

    async def make(heard) -> CompressedContext:
        heard("")
        return await describing(heard)

    return make


# --- waiting for another process --------------------------------------------------------------------------------------


async def test_questions_wait_for_a_pass_elsewhere_and_are_hits(bench, context):
    await bench.store.delete(context.key)
    lease = await leased_elsewhere(bench.store, context.key)
    asked = [asyncio.create_task(bench.ask(png(60), QUESTION)) for _ in range(20)]
    await waits(bench.contexts.maker, "replica", 20)
    assert len(bench.contexts.maker._watching) == 1  # one looks for all
    await bench.store.put(context, lease)
    assert {answer.lookup.cache for answer in await all_of(asked)} == {"hit"}


async def test_when_the_process_that_made_it_dies_one_question_takes_over_and_the_others_wait_for_it(bench, context):
    await bench.store.delete(context.key)
    lease = await leased_elsewhere(bench.store, context.key)
    asked = [asyncio.create_task(bench.ask(png(60), QUESTION)) for _ in range(20)]
    await waits(bench.contexts.maker, "replica", 20)
    await bench.store.release(lease)  # as Redis does when nobody renews it
    caches = [answer.lookup.cache for answer in await all_of(asked)]
    assert sorted(caches) == ["hit"] * 19 + ["miss"]
    assert bench.counted("describes_total", result="done") == 2  # the fixture's is the first


async def test_patience_with_a_pass_elsewhere_ends(make_maker, describing, monkeypatch):
    monkeypatch.setattr(describe_queue, "PATIENCE_SECONDS", 0.1)
    maker, key = make_maker(), describing.context.key
    await leased_elsewhere(maker._store, key)
    assert not await maker.until_made(key)
    describing.may_end.set()
    assert await maker.make(key, describing).task is describing.context
    assert await maker._store.state(key) == "kept"


async def test_patience_with_a_pass_of_this_process_ends_too(bench, monkeypatch):
    monkeypatch.setattr(describe_queue, "PATIENCE_SECONDS", 0.1)
    first = await bench.ask(png(62), QUESTION)
    await bench.settle()
    await bench.contexts.delete("default", first.lookup.context_id)
    never = asyncio.Event()
    bench.contexts.maker.make(bench.contexts.identity("default", png(62)).key(), lambda heard: never.wait())
    async with asyncio.timeout(20):
        assert (await bench.ask(png(62), QUESTION)).pieces == first.pieces
    await bench.contexts.close()


async def test_a_damaged_context_that_is_made_elsewhere_is_waited_for_in_peace(make_maker, describing):
    class Damaged(MemoryStore):
        asked = 0

        async def get(self, key, *, ttl=None):
            return None

        async def lease(self, key, seconds):
            self.asked += 1
            return await super().lease(key, seconds)

    store = Damaged()
    maker, key = make_maker(store), describing.context.key
    await store.put(describing.context)
    lease = await leased_elsewhere(store, key)
    task = maker.make(key, describing).task
    await asyncio.sleep(0.3)
    assert 1 < store.asked < 20
    describing.may_end.set()
    await store.release(lease)
    assert await task is describing.context


async def test_who_leaves_leaves_the_others_waiting(make_maker, describing):
    maker, key = make_maker(), describing.context.key
    lease = await leased_elsewhere(maker._store, key)
    waiting = [asyncio.create_task(maker.until_made(key)) for _ in range(3)]
    await waits(maker, "replica", 3)
    waiting[0].cancel()
    await maker._store.put(describing.context, lease)
    assert await all_of(waiting[1:]) == [True, True]
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert maker._watching == {}


async def test_closing_ends_what_is_made_and_what_is_waited_for(make_maker, describing):
    maker, key = make_maker(), describing.context.key
    making_it = maker.make(key, describing).task
    await describing.is_under_way.wait()
    other = make_maker(maker._store)
    waiting = asyncio.create_task(other.until_made(key))
    await waits(other, "replica", 1)
    await maker.close()
    await other.close()
    assert making_it.cancelled()
    assert await maker._store.state(key) == "absent"  # the lease is given back
    with pytest.raises(asyncio.CancelledError):
        await waiting
