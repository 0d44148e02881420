"""Questions about several images: each looked up by itself, in any order and company."""

import asyncio
import itertools
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from lookonce_cache import MemoryStore
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.errors import (
    ContextLostError,
    ContextNotFoundError,
    ContextOutdatedError,
    InvalidImageError,
    InvalidRequestError,
)
from lookonce_server.images.sources import ContextReference, ImageBytes
from lookonce_server.sessions.context_options import ContextOptions
from lookonce_server.sessions.fallback import Fallback
from lookonce_server.sessions.question import SentImage, merge_images
from lookonce_server.sessions.sessions import Sessions

from ....support.samples import GREEDY, TENANT, Asked, about, encoded, picture, png, read

pytestmark = pytest.mark.anyio
QUESTION = "How many objects are there?"
FULL, COMPRESS = ContextOptions(on_miss="full"), ContextOptions(on_miss="compress")
BYPASS, FALL_BACK = ContextOptions(bypass=True), ContextOptions(fallback=True)
SEEDS = (1, 2, 3)
IMAGES = tuple(map(png, SEEDS))


async def one(answers) -> Asked:
    (answer,) = await answers
    return answer


def found(answer: Asked) -> list[str]:
    """How each image was looked up."""
    return [image.cache for image in answer.lookup.images]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - it tells no event
            await asyncio.sleep(0.001)


async def from_contexts(bench, images, conversation) -> Asked:
    """The answer that the engine gives from the images' contexts in this order."""
    contexts = [await bench.create(image) for image in images]
    return await read(bench.engine.answer(contexts, conversation, GREEDY))


# --- known images -----------------------------------------------------------------------------------------------------


async def test_known_images_answer_in_every_order_and_company_from_their_contexts(bench):
    for image in IMAGES:
        await bench.create(image)
    decoded = bench.counted("image_decodes_total", outcome="decoded")
    for count in (1, 2, 3):
        for images in itertools.permutations(IMAGES, count):
            expected = await from_contexts(bench, images, about(QUESTION, count))
            pixels = await one(bench.ask_about(images, QUESTION))
            ids = [bench.context_id(image) for image in images]
            named = await one(bench.ask_about(ids, QUESTION))
            mixed = await one(bench.ask_about([ids[0], *images[1:]], QUESTION))
            for answer in (pixels, named, mixed):
                assert (answer.lookup.cache, found(answer)) == ("hit", ["hit"] * count)
                assert [image.context_id for image in answer.lookup.images] == ids
                assert (answer.pieces, answer.started) == (expected.pieces, expected.started)
    assert bench.counted("image_decodes_total", outcome="decoded") == decoded
    assert bench.counted("describes_total", result="done") == 3


async def test_a_lookup_is_counted_for_each_image(bench):
    await bench.create(png(1))
    before = [bench.counted("context_lookups_total", result=result, tier="memory") for result in ("hit", "miss")]
    await bench.ask_about(IMAGES, QUESTION)
    after = [bench.counted("context_lookups_total", result=result, tier="memory") for result in ("hit", "miss")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 2]


async def test_equal_images_are_one(bench):
    context_id = (await bench.create(png(1))).id
    await bench.create(png(2))
    alone = await one(bench.ask_about([png(1)], QUESTION))
    for images in ([png(1), png(1)], [png(1), context_id], [context_id, png(1), png(1)]):
        answer = await one(bench.ask_about(images, QUESTION))
        assert (found(answer), answer.pieces, answer.started) == (["hit"], alone.pieces, alone.started)
    two = await one(bench.ask_about([png(1), png(2)], Conversation((Turn("user", (0, "a", 1, "b", 0)),))))
    turn = Turn("user", (0, "a", 1, "b", 2))
    again = await one(bench.ask_about([context_id, png(2), png(1)], Conversation((turn,))))
    assert (found(again), again.pieces, again.started) == (["hit"] * 2, two.pieces, two.started)


def test_images_are_merged_by_their_contexts_and_keep_their_bytes(bench):
    def sent(seed: int) -> SentImage:
        image = ImageBytes(png(seed), "image")
        return SentImage(image, bench.contexts.identity(TENANT, image))

    first, second = sent(1), sent(2)
    reference = ContextReference(first.context_id)
    conversation = Conversation((Turn("user", ("a", 0, 1)), Turn("user", (2, "b", 3))))
    merged = merge_images(conversation, [reference, second, first, sent(2)])
    assert (merged.images, merged.numbers) == ((first, second), (0, 1, 0, 1))
    assert merged.conversation == Conversation((Turn("user", ("a", 0, 1)), Turn("user", (0, "b", 1))))
    apart = merge_images(conversation, [second, first])
    assert (apart.conversation, apart.images) == (conversation, (second, first))


# --- new images -------------------------------------------------------------------------------------------------------


async def test_a_new_image_makes_a_full_pass_and_each_new_one_is_described_once_behind(bench):
    await bench.create(png(2))
    whole = await one(bench.ask_about(IMAGES, QUESTION, BYPASS))
    answers = await asyncio.gather(*(one(bench.ask_about(IMAGES, QUESTION, FULL)) for _ in range(5)))
    misses = [answer for answer in answers if answer.lookup.cache == "miss"]
    assert found(misses[0]) == ["miss", "hit", "miss"]
    for answer in misses:
        assert (answer.pieces, answer.started) == (whole.pieces, whole.started)
        assert (answer.lookup.contexts, answer.lookup.tier) == ([], None)
    await bench.settle()
    assert bench.counted("describes_total", result="done") == 3
    hit = await one(bench.ask_about(IMAGES, QUESTION, FULL))
    expected = await from_contexts(bench, IMAGES, about(QUESTION, 3))
    assert (found(hit), hit.pieces) == (["hit"] * 3, expected.pieces)


async def test_on_miss_compress_describes_the_new_images_and_joins(bench):
    await bench.create(png(2))
    miss = await one(bench.ask_about(IMAGES, QUESTION, COMPRESS))
    hit = await one(bench.ask_about(IMAGES, QUESTION, COMPRESS))
    assert (miss.lookup.cache, found(miss)) == ("miss", ["miss", "hit", "miss"])
    assert (hit.lookup.cache, found(hit)) == ("hit", ["hit"] * 3)
    assert (miss.pieces, miss.started) == (hit.pieces, hit.started)
    assert bench.counted("describes_total", result="done") == 3


async def test_an_image_by_id_alone_has_new_ones_described_first_unless_its_image_is_kept(bench, bench_with):
    context_id = (await bench.create(png(1))).id
    answer = await one(bench.ask_about([context_id, png(2)], QUESTION, FULL))
    expected = await from_contexts(bench, IMAGES[:2], about(QUESTION, 2))
    assert (answer.lookup.cache, found(answer), answer.pieces) == ("miss", ["hit", "miss"], expected.pieces)

    keeping = bench_with(keep_images=True)
    await keeping.create(png(1))
    answer = await one(keeping.ask_about([context_id, png(2)], QUESTION, FULL))
    whole = await one(bench.ask_about(IMAGES[:2], QUESTION, BYPASS))
    assert (answer.lookup.cache, answer.lookup.contexts, answer.pieces) == ("miss", [], whole.pieces)
    await keeping.settle()
    await keeping.contexts._images.delete(keeping.contexts.identity(TENANT, ImageBytes(png(1), "image")).key())
    answer = await one(keeping.ask_about([context_id, png(3)], QUESTION, FULL))
    expected = await from_contexts(bench, [png(1), png(3)], about(QUESTION, 2))
    assert (found(answer), answer.pieces) == (["hit", "miss"], expected.pieces)


@pytest.mark.parametrize("by_id", [False, True])
async def test_two_questions_with_each_others_new_images_do_not_wait_for_each_other(bench_with, by_id, monkeypatch):
    """Each has submitted the one image, and meets the other's: its describe pass waits for the other's full pass."""
    bench = bench_with(keep_images=True)
    lookup, goes_on, may_go_on = bench.store.get, asyncio.Event(), asyncio.Event()
    first, second = (bench.contexts.identity(TENANT, ImageBytes(image, "image")).key() for image in IMAGES[:2])

    async def get(key, *, ttl=None):
        if key == second and not goes_on.is_set():
            goes_on.set()
            await may_go_on.wait()
        return await lookup(key, ttl=ttl)

    monkeypatch.setattr(bench.store, "get", get)
    images = [png(1), second.id] if by_id else [png(1), png(2)]
    one_way = asyncio.create_task(one(bench.ask_about(images, QUESTION, FULL)))
    await goes_on.wait()
    images = [png(2), first.id] if by_id else [png(2), png(1)]
    other_way = asyncio.create_task(one(bench.ask_about(images, QUESTION, FULL)))
    await until(lambda: second in bench.contexts.describe_queue._jobs)
    may_go_on.set()
    async with asyncio.timeout(30):
        answers = await asyncio.gather(one_way, other_way)
    await bench.settle()
    assert bench.counted("describes_total", result="done") == 2
    if not by_id:
        assert [answer.lookup.cache for answer in answers] == ["miss"] * 2


async def test_images_that_are_being_described_are_waited_for_at_once(bench, monkeypatch):
    """By a question with no new image; one with a new image does not wait."""
    may_end, describe, running = asyncio.Event(), bench.engine.describe, []

    async def late(*args):
        running.append(args)
        await may_end.wait()
        return await describe(*args)

    monkeypatch.setattr(bench.engine, "describe", late)
    await bench.ask_about(IMAGES[:2], QUESTION, FULL)
    waiting = asyncio.create_task(one(bench.ask_about(IMAGES[:2], QUESTION, FULL)))
    await until(lambda: bench.counted("describe_waits_total", where="process") == 2)
    new = await one(bench.ask_about(IMAGES, QUESTION, FULL))
    assert (new.lookup.cache, found(new), waiting.done()) == ("miss", ["miss"] * 3, False)
    may_end.set()
    assert (await waiting).lookup.cache == "hit"
    await bench.settle()
    assert len(running) == 3


# --- what fails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [ContextLostError, ContextOutdatedError])
async def test_a_context_lost_on_its_way_costs_a_full_pass_or_is_told(bench, lost, monkeypatch):
    ids = [(await bench.create(image)).id for image in IMAGES]
    whole = await one(bench.ask_about(IMAGES, QUESTION, BYPASS))

    async def answer(*_):
        raise lost("gone")
        yield

    monkeypatch.setattr(bench.engine, "answer", answer)
    answered = await one(bench.ask_about(IMAGES, QUESTION))
    assert (answered.lookup.cache, answered.lookup.contexts, answered.pieces) == ("miss", [], whole.pieces)
    told = ContextNotFoundError if lost is ContextOutdatedError else ContextLostError
    with pytest.raises(told):
        await bench.ask_about([png(1), *ids[1:]], QUESTION)
    assert bench.counted("context_lost_total") == 2


async def test_where_contexts_cannot_be_joined_several_images_make_a_full_pass(bench, bench_with, monkeypatch):
    whole = await one(bench.ask_about(IMAGES, QUESTION, BYPASS))
    monkeypatch.setattr(bench.engine, "facts", replace(bench.engine.facts, unjoinable="It is a test."))
    for options in (FULL, COMPRESS):
        answer = await one(bench.ask_about(IMAGES, QUESTION, options))
        await bench.settle()
        assert (answer.lookup.cache, answer.lookup.contexts, answer.pieces) == ("miss", [], whole.pieces)
    assert found(answer) == ["hit"] * 3
    ids = [image.context_id for image in answer.lookup.images]
    assert (await one(bench.ask_about([ids[0]], QUESTION))).lookup.cache == "hit"
    with pytest.raises(InvalidRequestError, match=r"themselves here.*It is a test") as caught:
        await bench.ask_about([png(1), *ids[1:]], QUESTION)
    assert caught.value.param == "messages"
    keeping = bench_with(keep_images=True)
    for image in IMAGES:
        await keeping.create(image)
    assert (await one(keeping.ask_about(ids, QUESTION))).pieces == whole.pieces


async def test_an_uncertain_answer_is_asked_again_if_all_images_are_there(bench, bench_with):
    always = bench_with(bench.store, fallback=Fallback(margin=float("inf")))
    ids = [(await bench.create(image)).id for image in IMAGES]
    whole = await one(bench.ask_about(IMAGES, QUESTION, BYPASS))
    joined = await one(bench.ask_about(ids, QUESTION))
    again = await one(always.ask_about(IMAGES, QUESTION, FALL_BACK))
    assert (again.lookup.cache, again.lookup.fallback, again.pieces) == ("hit", "full_pass", whole.pieces)
    assert again.lookup.contexts == []
    unchanged = await one(always.ask_about([png(1), *ids[1:]], QUESTION, FALL_BACK))
    assert (unchanged.lookup.fallback, unchanged.pieces) == ("no_image", joined.pieces)


@pytest.mark.parametrize("options", [FULL, COMPRESS, BYPASS])
async def test_of_bad_images_the_first_in_order_is_named(bench, options):
    for images, place in (([png(1), b"no", png(3)], 1), ([b"no", png(1), b"not this"], 0)):
        with pytest.raises(InvalidImageError) as caught:
            await bench.ask_about(images, QUESTION, options)
        assert caught.value.param == f"image[{place}]"
        await bench.settle()
    assert {info.key.id for info in await bench.listed()} <= {bench.context_id(image) for image in IMAGES}


async def test_images_that_are_too_large_together_are_refused(bench):
    pixels = 112 * 112
    for limit, count in ((2 * pixels, 2), (pixels - 1, 1)):  # one alone has its own limit
        sessions = Sessions(
            bench.engine, bench.contexts, images=bench.images, on_miss="full", metrics=bench.metrics, max_pixels=limit
        )
        images = [ImageBytes(image, "image") for image in IMAGES]
        ask = sessions.ask(about(QUESTION, count), images[:count], GREEDY, tenant=TENANT, options=BYPASS)
        await read(*(await ask).answers)
        with pytest.raises(InvalidImageError, match=f"the limit of {limit}") as caught:
            await sessions.ask(about(QUESTION, 3), images, GREEDY, tenant=TENANT, options=BYPASS)
        assert caught.value.param == "messages"


async def test_what_nobody_waits_for_any_more_is_not_decoded(bench, monkeypatch):
    """Decoding of the others is held up until the first one, which is damaged, has failed the question."""
    started, may_go_on, decode = [], threading.Event(), bench.images._processes._decode

    def held_up(data, *limits):
        started.append(data)
        if data != b"no":
            may_go_on.wait(30)
        return decode(data, *limits)

    monkeypatch.setattr(bench.images._processes, "_decode", held_up)
    with pytest.raises(InvalidImageError):
        await bench.ask_about([b"no", *(encoded(picture(seed), "BMP") for seed in range(12))], QUESTION, BYPASS)
    may_go_on.set()
    await bench.images.decode(ImageBytes(png(1), "image"))  # behind all that is still in the queue
    assert len(started) <= 5  # the damaged one, one for each of the two processes, and the last


async def test_another_tenants_context_is_not_found_in_company_either(bench):
    mine, theirs = (await bench.create(png(1))).id, (await bench.create(png(2))).id
    with pytest.raises(ContextNotFoundError, match=theirs):
        await bench.ask_about([png(1), theirs], QUESTION, tenant="another")
    await bench.ask_about([mine, theirs], QUESTION)


async def test_a_deleted_context_of_a_join_is_told_or_made_again(bench):
    ids = [(await bench.create(image)).id for image in IMAGES]
    await bench.contexts.delete(TENANT, ids[1])
    with pytest.raises(ContextNotFoundError, match=ids[1]):
        await bench.ask_about(ids, QUESTION)
    again = await one(bench.ask_about([ids[0], png(2), ids[2]], QUESTION))
    assert found(again) == ["hit", "miss", "hit"]
    assert len(again.lookup.contexts) == 3


async def test_a_store_that_keeps_nothing_costs_no_answer(bench_with):
    bench = bench_with(MemoryStore(max_bytes=100))
    whole = await one(bench.ask_about(IMAGES, QUESTION, FULL))
    joined = await one(bench.ask_about(IMAGES, QUESTION, COMPRESS))
    assert (whole.lookup.cache, joined.lookup.cache) == ("miss", "miss")
    assert await bench.listed() == ()
