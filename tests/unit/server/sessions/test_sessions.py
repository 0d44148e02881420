"""Deciding how a question is answered: single flight, failures that cost no answer, and never the wrong image."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from lookonce_cache import MemoryStore, StoreUnavailableError, digest, open_store
from lookonce_server.engines.base import Sampling
from lookonce_server.errors import ContextNotFoundError, ContextNotKeptError, EngineError, InvalidImageError
from lookonce_server.images.decode import ImageLimits
from lookonce_server.images.sources import ImageBytes
from lookonce_server.sessions.context_builder import context_identity, selection_method
from lookonce_server.sessions.lookup import Lookup

from ....support.samples import GREEDY, PLAN, TENANT, about, encoded, picture, png, read

pytestmark = pytest.mark.anyio
QUESTION = "How many objects are there?"


async def test_a_new_image_is_a_miss_and_the_next_question_a_hit(bench):
    miss = await bench.ask(png(1), QUESTION)
    assert (miss.lookup.cache, miss.lookup.tier, miss.lookup.contexts) == ("miss", None, [])
    await bench.settle()
    hit = await bench.ask(png(1), "What color is it?")
    assert (hit.lookup.cache, hit.lookup.tier) == ("hit", "memory")
    assert hit.lookup.context_id == miss.lookup.context_id
    named = await bench.ask(miss.lookup.context_id, "What color is it?")
    assert (named.lookup.cache, named.text) == ("hit", hit.text)


async def test_a_question_without_an_image_looks_nothing_up(bench):
    session = await bench.sessions.ask(about("Hello"), [], GREEDY, tenant=TENANT)
    answer = await read(*session.answers)
    assert session.lookup == Lookup("none")
    assert answer.finish_reason
    assert await bench.listed() == ()


@pytest.mark.parametrize("on_miss", ["compress", "full"])
async def test_several_answers_stand_on_one_lookup(bench, on_miss):
    miss = await bench.ask_often(png(42), QUESTION, 3, on_miss)
    await bench.settle()
    hit = await bench.ask_often(png(42), QUESTION, 3, on_miss)
    assert bench.counted("image_decodes_total", outcome="decoded") == 1  # for the describe pass and the full passes
    assert bench.counted("describes_total", result="done") == 1
    assert bench.counted("context_lookups_total", result="hit", tier="memory") == 1
    assert [answer.lookup.cache for answer in (*miss, *hit)] == ["miss"] * 3 + ["hit"] * 3
    assert miss[0].pieces == miss[1].pieces == miss[2].pieces


async def test_each_of_several_answers_has_a_seed_of_its_own(bench):
    context_id = (await bench.ask(png(42), QUESTION, "compress")).lookup.context_id
    sampling = Sampling(24, temperature=2.0, seed=2**63 - 3)
    together = await bench.ask_often(context_id, "What is there?", 3, sampling=sampling)
    alone = [
        await bench.ask(context_id, "What is there?", sampling=replace(sampling, seed=2**63 - 3 + i)) for i in range(3)
    ]
    assert [answer.pieces for answer in together] == [answer.pieces for answer in alone]
    assert len({answer.text for answer in together}) == 3
    unseeded = await bench.ask_often(context_id, "What is there?", 3, sampling=replace(sampling, seed=None))
    assert len({answer.text for answer in unseeded}) > 1


async def test_on_miss_compress_answers_from_the_context_it_makes(bench):
    asked = await bench.ask(png(1), QUESTION, on_miss="compress")
    assert asked.lookup.cache == "miss"
    assert len(asked.lookup.contexts) == 1
    assert asked.started.computed_tokens < 196
    assert await bench.contexts.info(TENANT, asked.lookup.context_id)
    hit = await bench.ask(png(1), QUESTION, on_miss="compress")
    assert (hit.lookup.cache, hit.pieces) == ("hit", asked.pieces)


@pytest.mark.parametrize("on_miss", ["compress", "full"])
async def test_fifty_questions_about_one_new_image_cause_one_describe_pass(bench, on_miss):
    asked = await asyncio.gather(*(bench.ask(png(2), QUESTION, on_miss=on_miss) for _ in range(50)))
    await bench.settle()
    assert bench.counted("describes_total", result="done") == 1
    assert len({answer.text for answer in asked}) == 1
    assert {answer.lookup.context_id for answer in asked} == {bench.context_id(png(2))}
    assert len(await bench.listed()) == 1


async def test_a_question_about_an_image_that_is_being_described_waits_and_is_a_hit(bench):
    first = await bench.ask(png(41), QUESTION)
    later = await bench.ask(png(41), QUESTION)
    assert (first.lookup.cache, later.lookup.cache) == ("miss", "hit")
    assert bench.counted("describes_total", result="done") == 1


@pytest.mark.parametrize("by_id", [False, True])
async def test_a_lookup_that_waits_for_a_describe_pass_is_counted_once(bench, by_id, monkeypatch):
    may_end, describe = asyncio.Event(), bench.engine.describe

    async def late(*args):
        await may_end.wait()
        return await describe(*args)

    monkeypatch.setattr(bench.engine, "describe", late)
    await bench.ask(png(43), QUESTION)
    waiting = asyncio.create_task(bench.ask(bench.context_id(png(43)) if by_id else png(43), QUESTION))
    while not bench.counted("describe_waits_total", where="process"):  # noqa: ASYNC110 - it tells no event
        await asyncio.sleep(0.001)
    may_end.set()
    assert (await waiting).lookup.cache == "hit"
    counted = [bench.counted("context_lookups_total", result=result, tier="memory") for result in ("miss", "hit")]
    stats = await bench.contexts.stats(TENANT)
    assert (counted, stats.misses, stats.hits) == ([1, 1], 1, 1)


async def test_contexts_made_ahead_and_questions_share_one_describe_pass(bench):
    contexts = await asyncio.gather(*(bench.create(png(3)) for _ in range(10)))
    await bench.ask(png(3), QUESTION)
    assert len({context.id for context in contexts}) == 1
    assert bench.counted("describes_total", result="done") == 1


async def test_one_who_leaves_does_not_take_the_describe_pass_along(bench):
    waiting = [asyncio.create_task(bench.ask(png(4), QUESTION, on_miss="compress")) for _ in range(2)]
    while not bench.contexts.describe_queue._jobs:  # noqa: ASYNC110 - it tells no event
        await asyncio.sleep(0.001)
    waiting[0].cancel()
    assert (await waiting[1]).finish_reason
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]


async def test_different_images_get_their_own_contexts(bench):
    seeds = range(40, 46)
    asked = await asyncio.gather(*(bench.ask(png(s), "Find the object.", on_miss="compress") for s in seeds))
    for seed, answer in zip(seeds, asked, strict=True):
        found = await bench.contexts.get(TENANT, bench.context_id(png(seed)))
        assert found.context.identity.image_digest == digest(png(seed))
        assert answer.lookup.contexts[0].identity.image_digest == digest(png(seed))


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_a_store_that_fails_is_a_miss_and_costs_no_answer(bench, bench_with, dead_redis):
    expected = await bench.ask(png(5), QUESTION)
    store = open_store(dead_redis)
    broken = bench_with(store)
    full = await broken.ask(png(5), QUESTION)
    await broken.settle()
    compressed = await broken.ask(png(5), QUESTION, on_miss="compress")
    await store.close()
    assert (full.lookup.cache, full.pieces) == ("miss", expected.pieces)
    assert (compressed.lookup.cache, len(compressed.lookup.contexts)) == ("miss", 1)
    assert broken.counted("context_lookups_total", result="unavailable", tier="redis") == 2
    assert broken.counted("describes_total", result="done") == 1  # none behind: the store would not keep it


async def test_a_context_asked_for_by_name_is_no_miss_when_the_store_fails(bench_with, dead_redis):
    store = open_store(dead_redis)
    bench = bench_with(store)
    with pytest.raises(StoreUnavailableError):
        await bench.ask("a" * 64, QUESTION)
    assert bench.counted("context_lookups_total", result="unavailable", tier="redis") == 1
    await store.close()


async def test_a_context_too_large_for_the_store_still_answers(bench_with):
    bench = bench_with(MemoryStore(max_bytes=100))
    asked = await bench.ask(png(5), QUESTION, on_miss="compress")
    assert asked.finish_reason
    assert await bench.listed() == ()
    with pytest.raises(ContextNotKeptError, match="no room"):
        [step async for step in bench.contexts.prepare(TENANT, ImageBytes(png(5), "image_url"))]


async def test_a_describe_pass_that_fails_leaves_the_full_answer_intact(bench, bench_with):
    expected = await bench.ask(png(6), QUESTION)
    broken = bench_with(plan=replace(PLAN, window=(0, 99)))  # layers that the model does not have
    asked = await broken.ask(png(6), QUESTION)
    with contextlib.suppress(EngineError):
        await broken.settle()
    assert asked.pieces == expected.pieces
    assert broken.counted("describes_total", result="failed") == 1
    assert await broken.listed() == ()
    assert (await broken.ask(png(6), QUESTION)).lookup.cache == "miss"
    with contextlib.suppress(EngineError):
        await broken.settle()
    fallen_back = await broken.ask(png(6), QUESTION, on_miss="compress")
    assert (fallen_back.lookup.cache, fallen_back.pieces) == ("miss", expected.pieces)
    await broken.settle()
    assert broken.counted("describes_total", result="failed") == 3  # what has just failed is not tried again behind


async def test_an_image_that_cannot_be_decoded_is_refused_by_its_field(bench):
    for on_miss in ("full", "compress"):
        with pytest.raises(InvalidImageError) as caught:
            await bench.ask(b"no image", QUESTION, on_miss=on_miss)
        assert caught.value.param == "image[0]"


async def test_an_image_that_cannot_be_decoded_is_tried_once(bench):
    with pytest.raises(InvalidImageError):
        await bench.ask(b"no image", QUESTION)
    await bench.settle()
    assert bench.counted("image_decodes_total", outcome="refused") == 1


async def test_an_image_over_the_limit_is_refused(bench_with):
    with pytest.raises(InvalidImageError, match="112 x 112 pixels"):
        await bench_with(limits=ImageLimits(max_pixels=112 * 112 - 1)).ask(png(1), QUESTION)


async def test_close_abandons_what_runs_behind(bench):
    await bench.ask(png(7), QUESTION)
    tasks = [making.task for making in bench.contexts.describe_queue._jobs.values()]
    await bench.contexts.close()
    assert all(task.done() for task in tasks)


# --- identity ---------------------------------------------------------------------------------------------------------


def test_the_id_changes_with_everything_that_the_context_depends_on(engine):
    def context_id(data: bytes = png(1), facts=(), plan=(), tenant=TENANT, precision="native", template=None) -> str:
        facts, plan = replace(engine.facts, **dict(facts)), replace(PLAN, **dict(plan))
        template = template or engine.template_digest(plan.prompt)
        return context_identity(tenant, data, facts, plan, template, precision).key().id

    ids = [
        context_id(),
        context_id(png(2)),
        context_id(png(1) + b"\0"),
        context_id(facts={"fingerprint": "0" * 64}),
        context_id(template="0" * 64),
        context_id(precision="int8"),
        context_id(tenant="another"),
        context_id(plan={"retention": 0.050001}),
        context_id(plan={"selection": "uniform"}),
        context_id(plan={"rows": "query"}),
        context_id(plan={"max_tokens": 47}),
        context_id(plan={"window": (2, 7)}),
        context_id(plan={"window": (1, 6)}),
        context_id(plan={"prompt": "Describe the image!"}),
    ]
    assert len(set(ids)) == len(ids)
    assert ids[0] == context_id()
    assert all(len(i) == 64 for i in ids)


def test_the_selection_is_packed_as_format_version_1_has_it(engine):
    plan = replace(PLAN, selection="coverage:reach=0.3,strength=1")
    identity = context_identity(TENANT, b"", engine.facts, plan, "0" * 64, "native")
    assert identity.selection == "coverage:reach=0.3,strength=1/generated/48"
    assert selection_method(identity) == plan.selection


async def test_the_same_picture_in_other_bytes_is_another_image(bench):
    first = await bench.ask(png(8), QUESTION, on_miss="compress")
    again = await bench.ask(encoded(picture(8), "BMP"), QUESTION, on_miss="compress")
    assert again.lookup.cache == "miss"
    assert again.lookup.context_id != first.lookup.context_id
    assert again.pieces == first.pieces


async def test_a_context_of_another_model_is_not_found(bench):
    asked = await bench.ask(png(9), QUESTION, on_miss="compress")
    (mine,) = asked.lookup.contexts
    theirs = replace(mine, identity=replace(mine.identity, model_fingerprint="0" * 64))
    await bench.store.put(theirs)
    for gone in (bench.contexts.get, bench.contexts.info):
        with pytest.raises(ContextNotFoundError, match="made by another model"):
            await gone(TENANT, theirs.id)
    with pytest.raises(ContextNotFoundError):
        await bench.ask(theirs.id, QUESTION)
    assert [info.key for info in (await bench.contexts.list(TENANT, 10)).infos] == [mine.key]


async def test_pages_are_full_whatever_other_models_have_stored(bench):
    for seed in (1, 2, 3):
        context = await bench.create(png(seed))
        for i in range(3):
            await bench.store.put(replace(context, identity=replace(context.identity, model_fingerprint=f"{i}" * 64)))
    first = await bench.contexts.list(TENANT, 2)
    last = await bench.contexts.list(TENANT, 2, first.next)
    assert (len(first.infos), len(last.infos), last.next) == (2, 1, None)
    assert {info.key.id for info in first.infos + last.infos} == {bench.context_id(png(seed)) for seed in (1, 2, 3)}


async def test_a_deleted_context_is_gone(bench):
    asked = await bench.ask(png(9), QUESTION, on_miss="compress")
    context_id = asked.lookup.context_id
    assert (await bench.contexts.info(TENANT, context_id)).key.id == context_id
    assert [info.key.id for info in (await bench.contexts.list(TENANT, 10)).infos] == [context_id]
    await bench.contexts.delete(TENANT, context_id)
    for gone in (bench.contexts.get, bench.contexts.info, bench.contexts.delete):
        with pytest.raises(ContextNotFoundError, match=context_id):
            await gone(TENANT, context_id)
