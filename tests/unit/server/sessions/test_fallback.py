"""An answer from a context that is not sure gives way to the full pass, where that is wanted and the image is there."""

import asyncio
import json
import math
from dataclasses import replace

import pytest

from lookonce_cache import BlobKey, ContextKey, MemoryStore, StoreConfigError, digest, open_store
from lookonce_server.app import running_app
from lookonce_server.engines.base import Piece, Sampling, Started, TokenLogprob
from lookonce_server.errors import ContextNotFoundError
from lookonce_server.images.sources import ContextReference, ImageBytes
from lookonce_server.sessions.answer_streams import StartedAnswer
from lookonce_server.sessions.context_options import ContextOptions
from lookonce_server.sessions.fallback import Fallback, least_margin, request_margin, strip_margin
from lookonce_server.sessions.image_store import ImageStore, _blob_key
from lookonce_server.sessions.lookup import ImageLookup
from lookonce_server.settings import Settings

from ....support.app_requests import OTHER_URL, URL, body, events_of, image, send, user
from ....support.samples import GREEDY, TENANT, about, png, read
from ....support.schemas import an_object

pytestmark = pytest.mark.anyio
QUESTION = "How many objects are there?"
STARTED = Started(30, 10, 210)
ALWAYS, NEVER = Fallback(margin=math.inf), Fallback(margin=0.0)
WANTED = ContextOptions(fallback=True)


def piece(*tops: float, reason=None) -> Piece:
    return Piece("x", 1, reason, TokenLogprob(0, tops[0], tuple(enumerate(tops))))


# --- the signal -------------------------------------------------------------------------------------------------------


def test_the_signal_is_the_least_lead_of_a_likeliest_token():
    assert least_margin([STARTED, piece(-0.25, -2.25), piece(-0.5, -1.0), piece(-0.1, -5.0)]) == 0.5
    assert least_margin([STARTED, piece(-0.25, -2.25), Piece("", 1, "stop")]) == 2.0  # the end token has none


def test_an_empty_answer_is_the_least_sure_and_a_schema_that_leaves_no_choice_the_most():
    assert least_margin([STARTED, Piece("", 1, "stop")]) == 0.0
    assert least_margin([STARTED, piece(0.0)]) == math.inf
    assert least_margin([STARTED, piece(0.0), piece(-0.5, -1.0)]) == 0.5


def test_one_unsure_answer_of_several_is_enough():
    sure, unsure = (StartedAnswer((STARTED, piece(-0.1, second)), None) for second in (-9.0, -1.0))
    assert not Fallback(margin=2.0).is_uncertain([sure, sure])
    assert Fallback(margin=2.0).is_uncertain([sure, unsure])


@pytest.mark.parametrize(
    ("by_default", "asked", "wanted"),
    [(False, None, False), (True, None, True), (False, True, True), (True, False, False)],
)
def test_a_request_decides_before_the_setting(by_default, asked, wanted):
    assert Fallback(by_default).is_enabled(ContextOptions(fallback=asked)) is wanted


@pytest.mark.parametrize(("asked", "looked"), [(None, 2), (0, 2), (1, 2), (5, 5)])
def test_log_probabilities_are_those_asked_for(asked, looked):
    sampling = replace(GREEDY, logprobs=asked)
    assert request_margin(sampling).logprobs == looked
    seen = strip_margin(piece(*range(0, -looked, -1)), sampling).logprob
    assert (seen is None) if asked is None else len(seen.top) == asked


# --- sessions ---------------------------------------------------------------------------------------------------------


async def asked(bench, source: bytes | str, question=QUESTION, options=WANTED, sampling=GREEDY, n=1, tenant=TENANT):
    source = ContextReference(source) if isinstance(source, str) else ImageBytes(source, "image")
    session = await bench.sessions.ask(about(question), [source], sampling, tenant=tenant, options=options, n=n)
    return [await read(answer, session.lookup) for answer in session.answers]


SAMPLINGS = {
    "greedy": GREEDY,
    "sampled": Sampling(12, temperature=1.5, seed=7),
    "stop": Sampling(24, stop=("e",)),
    "logprobs": Sampling(3, logprobs=3),
    "one token": Sampling(1, logprobs=0),
    "schema": Sampling(40, json_schema=json.dumps(an_object(answer={"type": "string", "maxLength": 6}))),
}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
async def test_asked_again_it_is_the_full_passs_answer_and_else_the_contexts(bench_with, sampling):
    store = MemoryStore()
    always, never, plain = bench_with(store, fallback=ALWAYS), bench_with(store, fallback=NEVER), bench_with(store)
    full = await asked(plain, png(1), options=ContextOptions(bypass=True), sampling=sampling, n=2)
    context = await plain.create(png(1))
    from_context = await asked(plain, png(1), options=ContextOptions(), sampling=sampling, n=2)
    sure = await asked(never, png(1), sampling=sampling, n=2)
    again = await asked(always, png(1), sampling=sampling, n=2)
    assert [one.pieces for one in sure] == [one.pieces for one in from_context]
    assert [one.started for one in sure] == [one.started for one in from_context]
    assert [one.pieces for one in again] == [one.pieces for one in full]
    assert sure[0].lookup == from_context[0].lookup._replace(fallback="none")
    assert again[0].lookup.images == (ImageLookup("hit", context.id),)
    assert (again[0].lookup.cache, again[0].lookup.fallback) == ("hit", "full_pass")
    in_vain = from_context[0].started.computed_tokens
    assert again[0].started == replace(full[0].started, computed_tokens=full[0].started.computed_tokens + in_vain)
    assert always.counted("fallbacks_total", outcome="full_pass") == 1
    assert never.counted("fallbacks_total", outcome="none") == 1


async def test_a_context_just_made_is_looked_at_too(bench_with):
    bench = bench_with(fallback=ALWAYS)
    options = replace(WANTED, on_miss="compress")
    (answer,) = await asked(bench, png(1), options=options)
    (full,) = await asked(bench, png(1), options=ContextOptions(bypass=True))
    assert (answer.lookup.cache, answer.lookup.fallback, answer.pieces) == ("miss", "full_pass", full.pieces)


async def test_full_passes_are_not_looked_at(bench_with):
    bench = bench_with(fallback=ALWAYS)
    (miss,) = await asked(bench, png(1))
    (bypass,) = await asked(bench, png(1), options=replace(WANTED, bypass=True))
    assert (miss.lookup.fallback, bypass.lookup.fallback) == (None, None)
    assert bench.counted("fallbacks_total", outcome="full_pass") == 0


async def test_an_image_that_does_not_come_along_leaves_the_contexts_answer(bench_with):
    bench = bench_with(fallback=ALWAYS)
    context = await bench.create(png(1))
    (plain,) = await asked(bench, context.id, options=ContextOptions())
    (answer,) = await asked(bench, context.id)
    assert (answer.lookup.fallback, answer.pieces, answer.started) == ("no_image", plain.pieces, plain.started)
    assert len(answer.lookup.contexts) == 1


async def test_a_prompt_that_fits_only_with_a_context_is_answered_from_it(bench_with, engine, monkeypatch):
    bench = bench_with(fallback=ALWAYS)
    await bench.create(png(1))
    full_tokens = (await asked(bench, png(1), options=ContextOptions()))[0].started.full_prompt_tokens
    for room, outcome in ((1, "full_pass"), (0, "no_room")):
        monkeypatch.setattr(engine, "facts", replace(engine.facts, max_tokens=full_tokens + room))
        (answer,) = await asked(bench, png(1))
        assert answer.lookup.fallback == outcome


@pytest.fixture
def endless(engine) -> Sampling:
    """Of answers that end with their tokens alone."""
    return Sampling(290, logit_bias=((engine._prompts.tokenizer.eos_token_id, -100.0),))


async def test_the_first_tokens_are_looked_at_and_no_more(bench_with, endless, monkeypatch):
    bench = bench_with(fallback=Fallback(margin=0.0, tokens=3))
    await bench.create(png(1))
    seen = []
    monkeypatch.setattr(Fallback, "is_uncertain", lambda self, answers: seen.extend(answers) or False)
    await asked(bench, png(1), sampling=replace(endless, max_tokens=6))
    (begun,) = seen
    assert [type(event) for event in begun.first] == [Started, Piece, Piece, Piece]


async def test_one_who_leaves_while_it_is_asked_again_stops_all_work(bench_with, engine, endless, steps, monkeypatch):
    bench = bench_with(fallback=ALWAYS)
    await bench.create(png(1))
    reached, never = asyncio.Event(), asyncio.Event()
    passes = []  # held here, so that nothing but the code under test ends them
    answer = engine.answer

    async def decode(image):
        reached.set()
        await never.wait()

    monkeypatch.setattr(engine, "answer", lambda *of: passes.append(answer(*of)) or passes[-1])
    monkeypatch.setattr(bench.images, "decode", decode)
    asking = asyncio.create_task(asked(bench, png(1), sampling=endless, n=3))
    await reached.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(30):
        while engine.queue_depth:  # noqa: ASYNC110 - it tells no event
            await asyncio.sleep(0.001)
    assert len(passes) == 3
    assert len(steps) < 290  # of three times as many


# --- kept images ------------------------------------------------------------------------------------------------------


async def test_a_kept_image_is_asked_again_by_its_contexts_id(bench_with):
    bench = bench_with(fallback=ALWAYS, keep_images=True)
    context = await bench.create(png(1))
    (full,) = await asked(bench, png(1), options=ContextOptions(bypass=True))
    (answer,) = await asked(bench, context.id)
    assert (answer.lookup.fallback, answer.pieces) == ("full_pass", full.pieces)


async def test_an_image_goes_with_its_context(bench_with):
    store = MemoryStore()
    bench = bench_with(store, fallback=ALWAYS, keep_images=True)
    context = await bench.create(png(1))
    other = await bench.create(png(2))
    assert store.images.used_bytes > 0
    await bench.contexts.delete(TENANT, context.id)
    assert await bench.contexts.kept_image(context.key) is None
    assert (await bench.contexts.kept_image(other.key)).data == png(2)
    await bench_with(store).contexts.delete(
        TENANT, other.id
    )  # where none are kept now, they are forgotten all the same
    assert store.images.used_bytes == 0


async def test_images_push_no_response_out_of_memory(bench_with):
    store = MemoryStore(image_bytes=40 * 1024**2)
    response, images, context = BlobKey(TENANT, "0" * 64), ImageStore(store), await bench_with(store).create(png(1))
    await store.records.write(response, b"a response")
    for i in range(4):
        other = replace(context, identity=replace(context.identity, model_fingerprint=f"{i}" * 64))
        await store.put(other)
        await images.put(other.key, ImageBytes(bytes(17 * 1024**2), "image"), None)
    assert await store.records.read(response) == b"a response"
    assert store.images.used_bytes <= 40 * 1024**2
    assert await images.get(other.key, None) is not None


async def test_the_settings_budgets_reach_the_store(monkeypatch):
    stores = []

    def open_and_stop(*args, **options):
        stores.append(open_store(*args, **options))
        raise StoreConfigError("before a model is loaded")

    monkeypatch.setattr("lookonce_server.app.open_store", open_and_stop)
    with pytest.raises(StoreConfigError, match="before a model"):
        async with running_app(Settings(store_responses_bytes=1000, keep_images_bytes=2000)):
            pass
    (store,) = stores
    for blobs, limit in ((store.records, 1000), (store.images, 2000)):
        for name in "abcd":
            await blobs.write(BlobKey(TENANT, name * 64), b"x" * 400)
        assert limit - 912 < blobs.used_bytes <= limit


async def test_an_image_whose_context_was_deleted_meanwhile_is_not_kept(bench_with, monkeypatch):
    store = MemoryStore()
    bench = bench_with(store, keep_images=True)
    write = store.images.write

    async def late(key, value, *, ttl=None):
        with pytest.raises(ContextNotFoundError):
            await bench.contexts.delete(TENANT, "0" * 64)
        await bench.contexts.delete(TENANT, bench.context_id(png(1)))
        await write(key, value, ttl=ttl)

    monkeypatch.setattr(store.images, "write", late)
    await bench.create(png(1))
    assert store.images.used_bytes == 0


async def test_an_image_is_kept_for_as_long_as_its_context(bench_with, monkeypatch):
    store = MemoryStore(ttl=600)
    bench = bench_with(store, fallback=NEVER, keep_images=True)
    given = []
    for name in ("write", "read"):
        call = getattr(store.images, name)

        async def heard(*args, call=call, ttl=None):
            given.append(ttl)
            return await call(*args, ttl=ttl)

        monkeypatch.setattr(store.images, name, heard)
    context = await bench.contexts.create(TENANT, ImageBytes(png(1), "image"), ContextOptions(ttl=5))
    await asked(bench, context.id, options=replace(WANTED, ttl=7))
    await asked(bench, context.id)
    await asked(bench, context.id, options=ContextOptions())  # nobody wants the image
    assert given == [5, 7, None]


async def test_another_tenants_image_is_never_used(bench_with):
    bench = bench_with(fallback=ALWAYS, keep_images=True)
    context = await bench.create(png(1))
    assert await bench.contexts.kept_image(ContextKey("another", context.id)) is None
    with pytest.raises(ContextNotFoundError):
        await asked(bench, context.id, tenant="another")


async def test_without_the_setting_no_image_is_kept(bench_with):
    store = MemoryStore()
    await bench_with(store).create(png(1))
    assert store.images.used_bytes == 0


async def test_an_image_too_large_to_keep_leaves_its_context(bench_with, monkeypatch, caplog):
    monkeypatch.setattr("lookonce_cache.stores.blobs.MAX_BLOB_BYTES", 10)
    bench = bench_with(fallback=ALWAYS, keep_images=True)
    context = await bench.create(png(1))
    assert "was not kept" in caplog.text
    (answer,) = await asked(bench, context.id)
    assert answer.lookup.fallback == "no_image"


def test_a_kept_image_is_no_response():
    """Their ids are digests of other things than a response's random bits, which one could be asked for by."""
    key = ContextKey(TENANT, "a" * 64)
    assert _blob_key(key).id not in (key.id, digest(key.id.encode()))


# --- the API ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(bench_with):
    return bench_with(fallback=ALWAYS)


async def test_the_answer_tells_where_it_was_asked_for_and_nowhere_else(app, bench):
    await bench.create(png(1))
    request = body(messages=[user(image(), QUESTION)])
    silent = await send(app, request)
    assert "fallback" not in silent.json()["lookonce"]
    assert "x-lookonce-fallback" not in silent.headers
    again = await send(app, request | {"lookonce": {"fallback": True}})
    facts, usage = again.json()["lookonce"], again.json()["usage"]
    assert (facts["cache"], facts["fallback"], again.headers["x-lookonce-fallback"]) == (
        "hit",
        "full_pass",
        "full_pass",
    )
    assert (facts["tier"], facts["context_tokens"], facts["tokens_saved"]) == (None, 0, 0)
    assert facts["context_id"] == silent.json()["lookonce"]["context_id"]
    assert usage["prompt_tokens"] > 196
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert again.json()["choices"][0]["logprobs"] is None
    assert bench.counted("context_answers_total", tier="memory") == 1  # the silent one
    refused = await send(app, request | {"lookonce": {"fallback": "yes"}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "lookonce.fallback")


async def test_a_stream_tells_it_in_its_first_event_and_has_the_full_passs_text(app, bench):
    await bench.create(png(1))
    request = body(messages=[user(image(), QUESTION)], max_tokens=8, stream=True, n=2)
    full = events_of(await send(app, request | {"lookonce": {"cache": "bypass"}}))
    again = events_of(await send(app, request | {"lookonce": {"fallback": True}}))
    assert again[0]["lookonce"]["fallback"] == "full_pass"
    for index in range(2):  # which of the two comes first is open
        assert choices_of(again, index) == choices_of(full, index)


def choices_of(events: list[dict], index: int) -> list[dict]:
    return [choice for event in events for choice in event["choices"] if choice["index"] == index]


async def test_another_image_of_the_tenant_is_not_mixed_up(app, bench):
    for one in (png(1), png(2)):
        await bench.create(one)
    for url in (URL, OTHER_URL):
        request = body(messages=[user(image(url), QUESTION)], max_tokens=24)
        full = await send(app, request | {"lookonce": {"cache": "bypass"}})
        again = await send(app, request | {"lookonce": {"fallback": True}})
        assert again.json()["choices"] == full.json()["choices"]
