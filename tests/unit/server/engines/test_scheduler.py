"""The engine's thread: fair, bounded, cancellable, and never silent about a failure."""

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from lookonce_server.engines.base import PassCounts, pass_counts
from lookonce_server.engines.transformers.scheduler import Batched, PassScheduler
from lookonce_server.errors import EngineError, OverloadedError, PromptTooLongError

pytestmark = pytest.mark.anyio
PATIENCE = 30.0  # seconds; only a failure waits that long


class Blocker:
    """A pass whose first step holds the worker's thread until `open` is set."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def work(self) -> Iterator[str]:
        self.entered.set()
        self.open.wait(PATIENCE)
        yield "opened"


@contextlib.asynccontextmanager
async def held(worker: PassScheduler):
    """While the block runs the worker's thread stands still, so that what is submitted queues up."""
    blocker = Blocker()
    task = asyncio.create_task(everything(worker.run(blocker.work())))
    assert await asyncio.to_thread(blocker.entered.wait, PATIENCE)
    try:
        yield
    finally:
        blocker.open.set()
        await task


def steps(name: str, count: int, log: list[str]) -> Iterator[int]:
    for i in range(count):
        log.append(name)
        yield i


def endless(closed: threading.Event | None = None) -> Iterator[int]:
    try:
        i = 0
        while True:
            yield i
            i += 1
    finally:
        if closed:
            closed.set()


async def everything(events) -> list:
    return [event async for event in events]


async def start(worker: PassScheduler, *works: Iterator, background: bool = False) -> list[asyncio.Task]:
    """Submit passes, in this order."""
    tasks = []
    for work in works:
        tasks.append(asyncio.create_task(everything(worker.run(work, background=background))))
        await asyncio.sleep(0)  # it submits itself
    return tasks


async def had_its_turn(worker: PassScheduler) -> None:
    """Return when whatever was submitted before and still is in a queue has had a turn."""
    await asyncio.gather(
        *await start(worker, steps("", 1, []), background=True), *await start(worker, steps("", 1, []))
    )


@pytest.fixture
def make_worker() -> Iterator:
    workers = []

    def make(*, max_running: int = 8, max_queue: int = 16, background_after: int = 32) -> PassScheduler:
        workers.append(PassScheduler(max_running=max_running, max_queue=max_queue, background_after=background_after))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


async def test_a_pass_gives_its_events_in_order(make_worker):
    assert await everything(make_worker().run(steps("a", 4, []))) == [0, 1, 2, 3]


async def test_passes_take_turns(make_worker):
    worker, log = make_worker(), []
    async with held(worker):
        tasks = await start(worker, steps("a", 5, log), steps("b", 3, log))
    await asyncio.gather(*tasks)
    assert log == ["a", "b", "a", "b", "a", "b", "a", "a"]


async def test_passes_that_ask_the_batch_have_their_turn_together():
    """Whoever asks for something else has its own turn between, and an error among the results is one pass's own."""
    log: list = []

    def compute(requests):
        log.append(requests)
        return [ValueError("of this one") if request == "bad" else request.upper() for request in requests]

    def asks(*requests: str) -> Iterator:
        answers = []
        for request in requests:
            answers.append((yield Batched(request, request)))
        yield answers

    worker = PassScheduler(max_running=8, max_queue=8, compute=compute)
    try:
        async with held(worker):
            works = asks("a", "b"), steps("alone", 4, log), asks("c", "d", "e"), asks("f", "bad", "never")
            tasks = await start(worker, *works)
        first, alone, second, failed = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        worker.close()
    assert first == ["a", "b", ["A", "B"]]
    assert second == ["c", "d", "e", ["C", "D", "E"]]
    assert alone == [0, 1, 2, 3]
    assert isinstance(failed, EngineError)
    assert [one for one in log if one != "alone"] == [["a", "c", "f"], ["b", "d", "bad"], ["e"]]
    assert log.index(["a", "c", "f"]) < len(log) - 1 - log[::-1].index("alone")  # between its steps


async def test_a_short_pass_ends_while_a_long_one_is_in_work(make_worker):
    worker = make_worker()
    long = worker.run(endless())
    assert await anext(long) == 0
    async with asyncio.timeout(PATIENCE):
        assert await everything(worker.run(steps("short", 3, []))) == [0, 1, 2]
    assert worker.admission.depth == 1
    await long.aclose()


async def test_what_waits_and_what_runs_is_told_by_kind(make_worker):
    worker = make_worker(max_running=1)
    long = worker.run(endless())
    assert await anext(long) == 0
    (answer,) = await start(worker, steps("answer", 1, []))
    describing = asyncio.create_task(everything(worker.run(endless_until(answer), background=True)))
    await asyncio.sleep(0)
    assert pass_counts(worker.admission) == PassCounts(1, 1, 0, 1)
    await long.aclose()
    await answer
    assert pass_counts(worker.admission)[:2] == (0, 0)
    await describing
    assert pass_counts(worker.admission) == PassCounts(0, 0, 0, 0)


def endless_until(task: asyncio.Task) -> Iterator[int]:
    while not task.done():
        yield 0


async def test_no_more_run_at_once_than_allowed(make_worker):
    worker, log = make_worker(max_running=1), []
    async with held(worker):
        tasks = await start(worker, steps("a", 3, log), steps("b", 3, log))
    await asyncio.gather(*tasks)
    assert log == ["a", "a", "a", "b", "b", "b"]


async def test_a_background_pass_gets_every_fourth_turn_while_others_run(make_worker):
    worker, log = make_worker(background_after=0), []
    async with held(worker):
        behind = await start(worker, steps("behind", 20, log), background=True)
        ahead = await start(worker, steps("a", 40, log), steps("b", 40, log))
    await asyncio.gather(*behind, *ahead)
    for at in range(0, 64, 16):  # the blocker's own last turn may shift it by one
        assert 3 <= log[at : at + 16].count("behind") <= 5, log


async def test_a_background_pass_lets_a_short_answer_end_and_cuts_into_a_long_one(make_worker):
    worker, log = make_worker(), []
    for answer, interrupted in (("short", False), ("long", True), ("short", False)):
        log.clear()
        async with held(worker):
            behind = await start(worker, steps("behind", 5, log), background=True)
            ahead = await start(worker, steps(answer, 60 if interrupted else 25, log))
        await asyncio.gather(*behind, *ahead)
        assert (log.index("behind") < log.count(answer)) == interrupted, log


async def test_a_background_pass_runs_at_full_speed_when_nobody_waits(make_worker):
    assert await everything(make_worker().run(steps("behind", 5, []), background=True)) == [0, 1, 2, 3, 4]


async def test_background_passes_run_one_after_the_other(make_worker):
    """Each holds a KV cache: many new images at once must not all be in the memory."""
    log: list[str] = []
    await asyncio.gather(*await start(make_worker(), steps("a", 5, log), steps("b", 5, log), background=True))
    assert log == ["a"] * 5 + ["b"] * 5


async def test_a_background_pass_is_not_starved_by_a_stream_of_others(make_worker):
    worker = make_worker()
    others = worker.run(endless())
    await anext(others)
    async with asyncio.timeout(PATIENCE):
        assert len(await everything(worker.run(steps("behind", 5, []), background=True))) == 5
    await others.aclose()


@pytest.mark.parametrize("background", [False, True])
async def test_a_full_queue_refuses_and_takes_on_again(make_worker, background):
    worker, log = make_worker(max_queue=3), []
    names = "abc" if background else "ab"  # beside the one that holds the thread
    async with held(worker):
        tasks = await start(worker, *(steps(name, 1, log) for name in names), background=background)
        assert worker.admission.depth == len(names) + 1
        with pytest.raises(OverloadedError, match="3 describe passes" if background else "3 requests"):
            await anext(worker.run(steps("refused", 1, log), background=background))
        tasks += await start(worker, steps("d", 1, log), background=not background)  # the other kind has its own places
    await asyncio.gather(*tasks)
    assert worker.admission.depth == 0
    assert await everything(worker.run(steps("e", 1, log), background=background)) == [0]
    assert sorted(log) == sorted(f"{names}de")


@pytest.mark.parametrize("background", [False, True])
async def test_a_cancelled_pass_gives_its_place_back_at_once(make_worker, background):
    """Whether it waits, or the thread is in the middle of a step of it."""
    worker, blocker = make_worker(max_queue=2), Blocker()
    running, *_ = await start(worker, blocker.work(), background=background)
    assert await asyncio.to_thread(blocker.entered.wait, PATIENCE)
    (waiting,) = await start(worker, steps("waits", 1, []), background=background)
    with pytest.raises(OverloadedError):
        await anext(worker.run(steps("refused", 1, []), background=background))
    for task in (waiting, running):
        task.cancel()
        await asyncio.wait([task])
    assert worker.admission.depth == 0
    tasks = await start(worker, steps("a", 1, []), steps("b", 1, []), background=background)
    blocker.open.set()
    assert await asyncio.gather(*tasks) == [[0], [0]]


@pytest.mark.parametrize("background", [False, True])
async def test_a_pass_cancelled_before_its_turn_lets_go_of_its_picture_at_once(make_worker, background):
    class Picture:
        pass

    def look_at(picture: Picture) -> Iterator[Picture]:
        yield picture

    worker, picture = make_worker(max_running=1), Picture()
    still_there = weakref.ref(picture)
    async with held(worker):
        (task,) = await start(worker, look_at(picture), background=background)
        del picture
        task.cancel()
        await asyncio.wait([task])
        del task
        gc.collect()
        assert still_there() is None


async def test_a_cancelled_background_pass_that_has_begun_ends_while_others_run(make_worker):
    """It holds a KV cache: it does not wait for its turn."""
    worker, closed = make_worker(background_after=10**9), threading.Event()
    behind = worker.run(endless(closed), background=True)
    await anext(behind)
    others = worker.run(endless())
    await anext(others)
    await behind.aclose()
    assert await asyncio.to_thread(closed.wait, PATIENCE)
    await others.aclose()


@pytest.mark.parametrize("background", [False, True])
async def test_closing_the_events_closes_the_pass(make_worker, background):
    worker, closed = make_worker(), threading.Event()
    events = worker.run(endless(closed), background=background)
    assert [await anext(events), await anext(events)] == [0, 1]
    await events.aclose()
    assert await asyncio.to_thread(closed.wait, PATIENCE)
    assert worker.admission.depth == 0


async def test_cancelling_whoever_waits_closes_the_pass(make_worker):
    worker, closed = make_worker(), threading.Event()
    (task,) = await start(worker, endless(closed))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(closed.wait, PATIENCE)


@pytest.mark.parametrize("background", [False, True])
async def test_a_pass_cancelled_before_its_turn_never_begins(make_worker, background):
    worker, log = make_worker(), []
    async with held(worker):
        (task,) = await start(worker, steps("never", 1, log), background=background)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await had_its_turn(worker)
    assert log == []


async def test_our_errors_pass_through_as_they_are(make_worker):
    raised = PromptTooLongError("too long", param="messages")

    def failing():
        yield 1
        raise raised

    events = make_worker().run(failing())
    assert await anext(events) == 1
    with pytest.raises(PromptTooLongError) as caught:
        await anext(events)
    assert caught.value is raised


async def test_other_errors_are_logged_and_told_without_details(make_worker, caplog):
    def failing():
        yield 1
        raise ValueError("a secret")

    worker = make_worker()
    with pytest.raises(EngineError) as caught:
        await everything(worker.run(failing()))
    assert str(caught.value) == "The engine failed: ValueError."
    assert "a secret" in caplog.text
    assert await everything(worker.run(steps("next", 1, []))) == [0]


async def test_an_error_while_a_cancelled_pass_is_closed_harms_no_other(make_worker, caplog):
    def stubborn():
        try:
            while True:
                yield 1
        finally:
            raise ValueError("while closing")

    worker = make_worker()
    events = worker.run(stubborn())
    await anext(events)
    await events.aclose()
    async with asyncio.timeout(PATIENCE):
        assert await everything(worker.run(steps("next", 3, []))) == [0, 1, 2]


async def test_close_ends_what_is_left_and_takes_nothing_more(make_worker):
    worker = make_worker()
    tasks = await start(worker, endless(), endless())
    tasks += await start(worker, endless(), background=True)
    await asyncio.to_thread(worker.close)
    for task in tasks:
        with pytest.raises(EngineError, match="shutting down"):
            await task
    with pytest.raises(EngineError, match="shutting down"):
        await anext(worker.run(steps("late", 1, [])))
    assert not any(thread.name == "lookonce-engine" and thread.is_alive() for thread in [worker._thread])
