"""Single flight: one describe pass per image, others wait for it, and failures cost no answer."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from lookonce_cache import (
    CompressedContext,
    Lease,
    MemoryStore,
    Store,
    StoreUnavailableError,
    WritesRefusedError,
    open_store,
)
from lookonce_server.errors import ContextNotKeptError, EngineError, ShuttingDownError
from lookonce_server.images.sources import ImageBytes
from lookonce_server.metrics import Metrics
from lookonce_server.sessions import describe_queue
from lookonce_server.sessions.describe_queue import DescribeQueue

from ....support.describe_queues import Builder, Builders, all_of, counted, is_due, leased_elsewhere, submit, waits
from ....support.samples import png, tasks_of

pytestmark = pytest.mark.anyio
QUESTION = "How many objects are there?"


@pytest.fixture
async def context(bench) -> CompressedContext:
    return await bench.create(png(60))


@pytest.fixture
async def builder(context) -> Builder:
    return Builder(context)


@pytest.fixture
async def make_queue(builder) -> AsyncIterator[Callable[..., DescribeQueue]]:
    """Queues, each of a process of its own as far as the store can tell."""
    queues: list[DescribeQueue] = []

    def build(store: Store | None = None, builder=builder) -> DescribeQueue:
        queues.append(DescribeQueue(store or MemoryStore(), builder, Metrics()))
        return queues[-1]

    yield build
    for queue in queues:
        await queue.close()
    assert tasks_of(DescribeQueue) == []


# --- one pass ---------------------------------------------------------------------------------------------------------


async def test_all_who_want_a_context_share_one_pass(make_queue, builder):
    queue, key = make_queue(), builder.context.key
    tasks = {submit(queue, builder.context).task for _ in range(10)}
    waiting = [asyncio.create_task(queue.wait(key)) for _ in range(10)]
    await waits(queue, "process", 10)
    builder.may_end.set()
    assert await all_of(waiting) == [True] * 10
    assert await all_of(list(tasks)) == [builder.context]
    assert builder.passes == 1
    assert await queue.wait(key)  # there is something to look for
    assert await queue._store.get(key)


async def test_two_processes_share_one_pass(make_queue, builder):
    store = MemoryStore()
    first, second = make_queue(store), make_queue(store)
    key = builder.context.key
    tasks = [submit(first, builder.context).task, submit(second, builder.context).task]
    await builder.is_under_way.wait()
    waiting = asyncio.create_task(second.wait(key))
    await waits(second, "process", 1)
    builder.may_end.set()
    assert [found.id for found in await all_of(tasks)] == [key.id] * 2
    assert await waiting
    assert builder.passes == 1
    assert sum(counted(queue, "describes_total", result="done") for queue in (first, second)) == 1


async def test_a_context_that_came_before_the_turn_is_not_made_again(make_queue, builder):
    queue = make_queue()
    await queue._store.put(builder.context)
    assert (await submit(queue, builder.context).task).id == builder.context.id
    assert builder.passes == 0


async def test_a_job_that_is_cancelled_gives_up_its_pass_and_its_lease(make_queue, builder):
    """The engine learns of it: a pass that nobody wants holds no place there."""
    queue, key = make_queue(), builder.context.key
    job = submit(queue, builder.context, start_after=is_due())
    await builder.is_under_way.wait()
    job.task.cancel()
    with pytest.raises(ShuttingDownError):
        await job.result()
    assert builder.is_cancelled
    assert await queue._store.state(key) == "absent"
    assert not queue.is_busy
    builder.may_end.set()
    assert await submit(queue, builder.context).result() is builder.context


async def test_the_lease_is_renewed_while_the_pass_runs(make_queue, builder, monkeypatch):
    """More often than it runs out; that renewing works, the stores' tests show."""
    monkeypatch.setattr(describe_queue, "LEASE_SECONDS", 0.3)
    queue, key = make_queue(), builder.context.key
    renew, renewals = queue._store.renew, asyncio.Queue[tuple[Lease, float]]()

    async def count(lease: Lease, seconds: float) -> bool:
        renewals.put_nowait((lease, seconds))
        return await renew(lease, 60)  # however slow the machine is

    monkeypatch.setattr(queue._store, "renew", count)
    task = submit(queue, builder.context).task
    await builder.is_under_way.wait()
    for _ in range(4):  # one each third of a lease
        lease, seconds = await renewals.get()
        assert (lease.key, seconds) == (key, 0.3)
    assert await queue._store.lease(key, 60) is None
    builder.may_end.set()
    await task
    assert await queue._store.state(key) == "kept"


async def test_what_was_deleted_while_it_was_made_does_not_come_back(make_queue, builder):
    queue, key = make_queue(), builder.context.key
    task = submit(queue, builder.context).task
    await builder.is_under_way.wait()
    await queue._store.delete(key)
    builder.may_end.set()
    assert await task is builder.context  # whoever asked before is answered
    assert await queue._store.state(key) == "absent"


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [EngineError("no"), RuntimeError("no"), MemoryError()])
async def test_a_pass_that_fails_frees_the_key(make_queue, builder, error, monkeypatch):
    queue, key = make_queue(), builder.context.key

    async def fails(*_) -> CompressedContext:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(builder, "describe", fails)
        with pytest.raises(EngineError):  # which an answer by the full pass is the remedy for, whatever it was
            await submit(queue, builder.context).result()
    assert counted(queue, "describes_total", result="failed") == 1
    assert await queue._store.state(key) == "absent"
    assert not await queue.wait(key)
    builder.may_end.set()
    assert await submit(queue, builder.context).result() is builder.context


@pytest.mark.parametrize("error", [EngineError("no"), RuntimeError("no")])
async def test_a_pass_that_fails_costs_no_answer(bench, error, monkeypatch):
    expected = await bench.ask(png(61), QUESTION)
    await bench.contexts.close()

    async def fails(*_) -> None:
        raise error

    monkeypatch.setattr(bench.contexts._builder, "describe", fails)
    asked = await all_of([bench.ask(png(61), QUESTION, on_miss=on_miss) for on_miss in ("full", "compress") * 5])
    assert [answer.pieces for answer in asked] == [expected.pieces] * 10


async def test_without_a_store_it_is_one_pass_a_process(make_queue, builder, dead_redis):
    store = open_store(dead_redis)
    queue = make_queue(store)
    tasks = [submit(queue, builder.context).task for _ in range(5)]
    builder.may_end.set()
    assert await all_of(tasks) == [builder.context] * 5
    assert builder.passes == 1
    await store.close()


async def test_without_a_store_nothing_is_made_behind(make_queue, builder, dead_redis):
    store = open_store(dead_redis)
    queue = make_queue(store)
    with pytest.raises(StoreUnavailableError):
        await submit(queue, builder.context, start_after=is_due()).task
    assert builder.passes == 0
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


async def test_for_a_store_that_keeps_nothing_an_image_is_described_once_at_most(make_queue, builder, keeping_nothing):
    queue, key = make_queue(keeping_nothing), builder.context.key
    builder.may_end.set()
    results = [
        (await asyncio.gather(submit(queue, builder.context, **options).task, return_exceptions=True))[0]
        for options in [{"start_after": is_due()}, {"must_keep": True}, {}] * 5
    ]
    assert builder.passes <= 1
    assert results[0] is builder.context or isinstance(results[0], WritesRefusedError)
    assert {type(result) for result in results[1:]} <= {WritesRefusedError, ContextNotKeptError}
    assert await queue._store.state(key) == "absent"


async def test_what_was_not_kept_is_described_again_after_a_while(make_queue, builder, keeping_nothing, monkeypatch):
    monkeypatch.setattr(describe_queue, "BACKOFF_SECONDS", 0)
    monkeypatch.setattr(describe_queue, "TOO_LARGE_BACKOFF_SECONDS", 0)
    queue = make_queue(keeping_nothing)
    builder.may_end.set()
    for _ in range(2):
        await asyncio.gather(submit(queue, builder.context).task, return_exceptions=True)
    assert builder.passes in (0, 2)
    assert len(queue._backoff) <= 1


async def test_who_lost_the_lease_to_a_delete_may_describe_again_at_once(make_queue, builder):
    queue, key = make_queue(), builder.context.key
    task = submit(queue, builder.context).task
    await builder.is_under_way.wait()
    await queue._store.delete(key)
    builder.may_end.set()
    await task
    await submit(queue, builder.context).task
    assert builder.passes == 2
    assert await queue._store.state(key) == "kept"


async def test_a_pass_that_outlived_its_lease_is_kept(make_queue, builder, monkeypatch):
    """As after a pause of the process or the store: nobody else has taken the lease."""
    monkeypatch.setattr(describe_queue, "LEASE_SECONDS", 0.02)
    monkeypatch.setattr(DescribeQueue, "_renew", lambda *_: asyncio.sleep(60))
    queue, key = make_queue(), builder.context.key
    task = submit(queue, builder.context).task
    await builder.is_under_way.wait()
    while await queue._store.state(key) == "leased":  # noqa: ASYNC110 - it tells no event
        await asyncio.sleep(0.005)
    builder.may_end.set()
    await task
    assert await queue._store.state(key) == "kept"


async def test_a_context_is_stored_once_a_store_that_was_away_is_back(make_queue, builder):
    class Away(MemoryStore):
        is_away = True

        async def put(self, context, lease=None, *, ttl=None):
            if self.is_away:
                raise StoreUnavailableError("no")
            await super().put(context, lease, ttl=ttl)

    store = Away()
    queue, key = make_queue(store), builder.context.key
    builder.may_end.set()
    assert await submit(queue, builder.context).task is builder.context  # whoever waits is answered at once
    assert await store.state(key) == "leased"
    assert queue.is_busy
    queue.end()
    store.is_away = False
    async with asyncio.timeout(20):
        while queue.is_busy:  # noqa: ASYNC110 - it tells no event
            await asyncio.sleep(0.01)
    assert await store.state(key) == "kept"
    assert builder.passes == 1


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_told_to_end_it_finishes_what_runs_and_starts_nothing_in_the_background(make_queue, bench):
    contexts = [await bench.create(png(seed)) for seed in range(63, 67)]
    running, queued, waiting, late = (Builder(context, starts=context is contexts[0]) for context in contexts)
    queue = make_queue(builder=Builders(running, queued, waiting, late))
    jobs = {
        "running": submit(queue, running.context, start_after=is_due()),
        "queued": submit(queue, queued.context, start_after=is_due()),
        "waiting": submit(queue, waiting.context, start_after=asyncio.Event()),
    }
    await running.is_under_way.wait()
    await queued.is_under_way.wait()
    queue.end()
    late_job = submit(queue, late.context, start_after=is_due())
    assert queue.is_busy
    running.may_end.set()
    assert await jobs["running"].result() is running.context
    assert await queue._store.state(running.context.key) == "kept"
    await asyncio.wait([jobs["queued"].task, jobs["waiting"].task], timeout=20)
    assert [jobs[name].task.cancelled() for name in ("queued", "waiting")] == [True, True]
    with pytest.raises(ShuttingDownError):
        await late_job.result()
    assert not queue.is_busy


async def test_told_to_end_it_finishes_the_next_in_line_where_none_runs(make_queue, bench):
    first, second = [Builder(await bench.create(png(seed))) for seed in (63, 64)]
    queue = make_queue(builder=Builders(first, second))
    jobs = [submit(queue, builder.context, start_after=is_due()) for builder in (first, second)]
    await second.is_under_way.wait()
    queue.end()
    first.may_end.set()
    assert await jobs[0].result() is first.context
    with pytest.raises(ShuttingDownError):
        await jobs[1].result()
    assert jobs[1].task.cancelled()


async def test_who_waits_for_a_pass_that_is_dropped_at_the_end_is_told_or_answered(bench):
    expected = await bench.ask(png(66), QUESTION)
    await bench.contexts.close()
    queue, image = bench.contexts.describe_queue, ImageBytes(png(66), "image_url")
    job = queue.submit(bench.contexts.identity("default", image), image, start_after=asyncio.Event())
    asked = asyncio.create_task(bench.ask(png(66), QUESTION))
    preparing = asyncio.create_task(anext(bench.contexts.prepare("default", image)))
    await waits(queue, "process", 1)
    await asyncio.sleep(0.05)  # for the other to come as far, which nothing tells
    queue.end()
    assert (await asked).pieces == expected.pieces
    with pytest.raises(ShuttingDownError):
        await preparing
    assert job.task.cancelled()


# --- waiting for another process --------------------------------------------------------------------------------------


async def test_questions_wait_for_a_pass_elsewhere_and_are_hits(bench, context):
    await bench.store.delete(context.key)
    lease = await leased_elsewhere(bench.store, context.key)
    asked = [asyncio.create_task(bench.ask(png(60), QUESTION)) for _ in range(20)]
    await waits(bench.contexts.describe_queue, "replica", 20)
    assert len(bench.contexts.describe_queue._watches) == 1  # one looks for all
    await bench.store.put(context, lease)
    assert {answer.lookup.cache for answer in await all_of(asked)} == {"hit"}


async def test_when_the_process_that_made_it_dies_one_question_takes_over_and_the_others_wait_for_it(bench, context):
    await bench.store.delete(context.key)
    lease = await leased_elsewhere(bench.store, context.key)
    asked = [asyncio.create_task(bench.ask(png(60), QUESTION)) for _ in range(20)]
    await waits(bench.contexts.describe_queue, "replica", 20)
    await bench.store.release(lease)  # as Redis does when nobody renews it
    caches = [answer.lookup.cache for answer in await all_of(asked)]
    assert sorted(caches) == ["hit"] * 19 + ["miss"]
    assert bench.counted("describes_total", result="done") == 2  # the fixture's is the first


async def test_patience_with_a_pass_elsewhere_ends(make_queue, builder, monkeypatch):
    monkeypatch.setattr(describe_queue, "LEASE_WAIT_SECONDS", 0.1)
    queue, key = make_queue(), builder.context.key
    await leased_elsewhere(queue._store, key)
    assert not await queue.wait(key)
    builder.may_end.set()
    assert await submit(queue, builder.context).task is builder.context
    assert await queue._store.state(key) == "kept"


async def test_patience_with_a_pass_of_this_process_ends_too(bench, monkeypatch):
    monkeypatch.setattr(describe_queue, "LEASE_WAIT_SECONDS", 0.1)
    first = await bench.ask(png(62), QUESTION)
    await bench.settle()
    await bench.contexts.delete("default", first.lookup.context_id)
    never = asyncio.Event()
    monkeypatch.setattr(bench.contexts._builder, "describe", lambda *_: never.wait())
    bench.contexts.describe_queue.submit(
        bench.contexts.identity("default", ImageBytes(png(62), "image")), ImageBytes(png(62), "image")
    )
    async with asyncio.timeout(20):
        assert (await bench.ask(png(62), QUESTION)).pieces == first.pieces
    await bench.contexts.close()


async def test_pixels_are_not_held_while_another_process_describes(make_queue, builder, bench):
    queue, image = make_queue(), ImageBytes(png(60), "image")
    await bench.images.decode(image)
    lease = await leased_elsewhere(queue._store, builder.context.key)
    job = queue.submit(builder.context.identity, image)
    async with asyncio.timeout(20):
        while image.decoding is not None:  # noqa: ASYNC110 - it tells no event
            await asyncio.sleep(0.001)
    await queue._store.release(lease)
    builder.may_end.set()
    assert await job.result() is builder.context


async def test_a_damaged_context_that_is_made_elsewhere_is_waited_for_in_peace(make_queue, builder):
    class Damaged(MemoryStore):
        asked = 0

        async def get(self, key, *, ttl=None):
            return None

        async def lease(self, key, seconds):
            self.asked += 1
            return await super().lease(key, seconds)

    store = Damaged()
    queue, key = make_queue(store), builder.context.key
    await store.put(builder.context)
    lease = await leased_elsewhere(store, key)
    task = submit(queue, builder.context).task
    await asyncio.sleep(0.3)
    assert 1 < store.asked < 20
    builder.may_end.set()
    await store.release(lease)
    assert await task is builder.context


async def test_who_leaves_leaves_the_others_waiting(make_queue, builder):
    queue, key = make_queue(), builder.context.key
    lease = await leased_elsewhere(queue._store, key)
    waiting = [asyncio.create_task(queue.wait(key)) for _ in range(3)]
    await waits(queue, "replica", 3)
    waiting[0].cancel()
    await queue._store.put(builder.context, lease)
    assert await all_of(waiting[1:]) == [True, True]
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert queue._watches == {}


async def test_closing_ends_what_is_made_and_what_is_waited_for(make_queue, builder):
    queue, key = make_queue(), builder.context.key
    describing = submit(queue, builder.context).task
    await builder.is_under_way.wait()
    other = make_queue(queue._store)
    waiting = asyncio.create_task(other.wait(key))
    await waits(other, "replica", 1)
    await queue.close()
    await other.close()
    assert describing.cancelled()
    assert await queue._store.state(key) == "absent"  # the lease is given back
    with pytest.raises(asyncio.CancelledError):
        await waiting
