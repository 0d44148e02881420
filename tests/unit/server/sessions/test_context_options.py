"""What a request may ask of a context: another context for other options, never an answer from one made otherwise."""

import asyncio
import time
from dataclasses import replace

import pytest
import torch

from lookonce_cache import MemoryStore
from lookonce_server.errors import InvalidRequestError, PromptTooLongError
from lookonce_server.images.sources import ContextReference, ImageBytes
from lookonce_server.sessions.context_options import NO_OPTIONS, ContextLimits, ContextOptions
from lookonce_server.sessions.contexts import Prepared
from lookonce_server.sessions.lookup import ImageLookup, Lookup

from ....support.samples import GREEDY, PLAN, TENANT, Bench, about, png, read

pytestmark = pytest.mark.anyio
QUESTION = "Find the red object."
OTHER_PROMPT = "What is at the top left of the picture?"
WISHES = {"retention": 0.2, "describe_prompt": OTHER_PROMPT}


async def ask(bench: Bench, image: bytes | str, **wishes):
    options = ContextOptions(place="lookonce.", **wishes)
    source = ContextReference(image) if isinstance(image, str) else ImageBytes(image, "image")
    session = await bench.sessions.ask(about(QUESTION), [source], GREEDY, tenant=TENANT, options=options)
    (answer,) = session.answers
    return await read(answer, session.lookup)


async def prepared(bench: Bench, image: bytes, **wishes) -> list[str | Prepared]:
    steps = bench.contexts.prepare(TENANT, ImageBytes(image, "image"), ContextOptions(**wishes))
    return [step async for step in steps]


def seconds_left(info) -> float:
    return info.expires_at - time.time()


@pytest.fixture
def bench(bench_with) -> Bench:
    return bench_with(MemoryStore(ttl=1000))


# --- retention and prompt ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wishes", [{"retention": 0.2}, {"describe_prompt": OTHER_PROMPT}, WISHES], ids=str)
@pytest.mark.parametrize("on_miss", ["compress", "full"])
async def test_no_answer_comes_from_a_context_made_otherwise(bench, bench_with, wishes, on_miss):
    usual = await ask(bench, png(70), on_miss="compress")
    wanted = await ask(bench, png(70), on_miss=on_miss, **wishes)
    await bench.settle()
    assert (usual.lookup.cache, wanted.lookup.cache) == ("miss", "miss")
    again = await ask(bench, png(70), **wishes)
    named = await ask(bench, again.lookup.context_id)
    identity = again.lookup.contexts[0].identity
    assert again.lookup.cache == "hit"
    assert (identity.retention, identity.describe_prompt) == (
        wishes.get("retention", PLAN.retention),
        wishes.get("describe_prompt", PLAN.prompt),
    )
    assert named.pieces == again.pieces
    assert (await ask(bench, png(70))).lookup.context_id == usual.lookup.context_id != again.lookup.context_id
    # A server whose own settings are these makes the same context, and gives the same answer.
    own = bench_with(plan=replace(PLAN, retention=identity.retention, prompt=identity.describe_prompt))
    theirs = await ask(own, png(70), on_miss="compress")
    assert theirs.lookup.context_id == again.lookup.context_id
    assert theirs.pieces == again.pieces
    (made,), (alike,) = again.lookup.contexts, theirs.lookup.contexts
    assert (made.kept_tokens, made.description) == (alike.kept_tokens, alike.description)
    assert torch.equal(made.scores, alike.scores)


async def test_the_servers_own_settings_may_be_named(bench):
    usual = await ask(bench, png(72), on_miss="compress")
    named = await ask(bench, png(72), retention=PLAN.retention, describe_prompt=PLAN.prompt)
    assert (named.lookup.cache, named.lookup.context_id) == ("hit", usual.lookup.context_id)


async def test_each_of_many_concurrent_wishes_is_met_by_its_own_pass(bench):
    retentions = [0.05, 0.1, 0.15, 0.2] * 5
    asked = await asyncio.gather(*(ask(bench, png(73), on_miss="compress", retention=one) for one in retentions))
    assert [one.lookup.contexts[0].identity.retention for one in asked] == retentions
    assert bench.counted("describes_total", result="done") == 4


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "limits", "message"),
    [
        ({"retention": 0.26}, {}, "retention: 0.26; accepted here: at most 0.25, or the server's own 0.05"),
        (
            {"retention": 0.01},
            {"min_retention": 0.02},
            "retention: 0.01; accepted here: at least 0.02 and at most 0.25, or the server's own 0.05",
        ),
        ({"retention": 0.1}, {"max_retention": 0}, "retention: 0.1; accepted here: the server's own 0.05"),
        ({"ttl": 61.0}, {"max_ttl": 60}, "ttl: 61 seconds; accepted here: 1 to 60 seconds"),
        ({"ttl": 0.5}, {}, "ttl: 0.5 seconds; accepted here: 1 to 604800 seconds"),
        ({"ttl": 5.0}, {"max_ttl": 0}, "ttl: 5 seconds; accepted here: none but the server's own"),
        (
            {"describe_prompt": "x" * 1001},
            {},
            "describe_prompt: 1001 characters; accepted here: at most 1000 characters",
        ),
        (
            {"describe_prompt": "x"},
            {"max_describe_prompt": 0},
            "describe_prompt: 1 characters; accepted here: none but the server's own",
        ),
    ],
)
def test_what_is_beyond_the_limits_is_refused_by_its_name(wishes, limits, message):
    with pytest.raises(InvalidRequestError) as caught:
        ContextLimits(**limits).check(ContextOptions(place="lookonce.", **wishes), PLAN)
    assert str(caught.value) == f"lookonce.{message}."
    assert caught.value.param == f"lookonce.{next(iter(wishes))}"


def test_the_servers_own_plan_is_within_any_limits():
    own = replace(PLAN, retention=1.0, prompt="x" * 2000)
    limits = ContextLimits(min_retention=0.1, max_retention=0, max_ttl=0, max_describe_prompt=0)
    limits.check(ContextOptions(retention=1.0, describe_prompt=own.prompt), own)
    limits.check(NO_OPTIONS, own)


@pytest.mark.parametrize("image", [png(74), "a" * 64, None], ids=["pixels", "id", "none"])
async def test_limits_hold_for_every_question(bench, image):
    options = ContextOptions(retention=0.9, place="lookonce.")
    source = image if image is None else ContextReference(image) if isinstance(image, str) else ImageBytes(image, "i")
    with pytest.raises(InvalidRequestError) as caught:
        await bench.sessions.ask(about(QUESTION), [source], GREEDY, tenant=TENANT, options=options)
    assert caught.value.param == "lookonce.retention"


async def test_a_prompt_may_spell_the_models_image_token(bench):
    made = await ask(bench, png(74), on_miss="compress", describe_prompt="Describe <image> well.")
    assert (made.lookup.cache, made.lookup.contexts[0].image_tokens) == ("miss", 196)
    assert (await ask(bench, png(74), describe_prompt="Describe <image> well.")).lookup.cache == "hit"


async def test_a_prompt_that_cannot_be_encoded_is_named(bench, monkeypatch):
    monkeypatch.setattr(bench.engine._prompts, "_allow_control_tokens", True)
    with pytest.raises(InvalidRequestError, match="'<image>'") as caught:
        await ask(bench, png(74), describe_prompt="Describe <image> well.")
    assert caught.value.param == "lookonce.describe_prompt"


async def test_a_prompt_too_long_for_the_model_is_named_where_somebody_waits(bench):
    bench.contexts._builder._limits = ContextLimits(max_describe_prompt=12_000)
    long = "1 " * 5999
    with pytest.raises(PromptTooLongError) as caught:
        await ask(bench, png(74), on_miss="compress", describe_prompt=long)
    assert caught.value.param == "lookonce.describe_prompt"
    answer = await ask(bench, png(74), on_miss="full", describe_prompt=long)
    await bench.settle()
    assert (answer.lookup.cache, await bench.listed()) == ("miss", ())


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [("retention", PLAN.retention), ("describe_prompt", PLAN.prompt)])
async def test_an_id_is_not_contradicted(bench, name, value):
    made = (await ask(bench, png(75), on_miss="compress", **WISHES)).lookup
    with pytest.raises(InvalidRequestError) as caught:
        await ask(bench, made.context_id, **{name: value})
    assert caught.value.param == f"lookonce.{name}"
    assert OTHER_PROMPT not in str(caught.value)
    assert (await ask(bench, made.context_id, on_miss="full", **WISHES)).lookup.cache == "hit"


async def test_an_id_cannot_be_bypassed(bench):
    made = (await ask(bench, png(75), on_miss="compress")).lookup
    with pytest.raises(InvalidRequestError) as caught:
        await ask(bench, made.context_id, bypass=True)
    assert caught.value.param == "lookonce.cache"


# --- bypass -----------------------------------------------------------------------------------------------------------


async def test_bypass_neither_looks_nor_makes(bench):
    whole = await ask(bench, png(76), bypass=True)
    assert whole.lookup == Lookup("bypass", (ImageLookup("bypass"),))
    assert bench.counted("context_lookups_total", result="miss", tier="memory") == 0
    await ask(bench, png(76), on_miss="compress")
    again = await ask(bench, png(76), bypass=True, on_miss="compress", retention=0.1)
    await bench.settle()
    assert (again.lookup, again.pieces, again.started) == (whole.lookup, whole.pieces, whole.started)
    assert bench.counted("context_lookups_total", result="hit", tier="memory") == 0
    assert len(await bench.listed()) == 1


# --- ttl --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_miss", ["compress", "full"])
async def test_a_context_lives_as_long_as_its_last_use_says(bench, on_miss):
    await ask(bench, png(77), on_miss=on_miss, ttl=100.0)
    await bench.settle()
    (info,) = await bench.listed()
    assert 90 < seconds_left(info) < 101
    for wishes, expected in (({"ttl": 300.0}, 300), ({}, 1000)):
        for image in (png(77), info.key.id):
            await ask(bench, image, **wishes)
            (info,) = await bench.listed()
            assert expected - 10 < seconds_left(info) < expected + 1


async def test_preparing_takes_a_ttl_and_so_does_finding(bench):
    for ttl, created in ((50.0, True), (70.0, False), (None, False)):
        *_, last = await prepared(bench, png(78), ttl=ttl)
        assert last.created is created
        assert (ttl or 1000) - 10 < seconds_left(last.info) < (ttl or 1000) + 1


async def test_one_who_joins_a_pass_gives_its_own_ttl(bench):
    first = bench.contexts.prepare(TENANT, ImageBytes(png(79), "image"), ContextOptions(ttl=50.0))
    await anext(first)
    *_, last = await prepared(bench, png(79))
    assert bench.counted("describes_total", result="done") == 1
    assert last.created
    assert 990 < seconds_left(await bench.contexts.info(TENANT, last.info.key.id)) < 1001
    await first.aclose()


# --- progress ---------------------------------------------------------------------------------------------------------


async def test_all_who_wait_for_one_pass_follow_it(bench):
    steps = await asyncio.gather(*(prepared(bench, png(80)) for _ in range(5)))
    assert bench.counted("describes_total", result="done") == 1
    for *texts, last in steps:
        assert "".join(texts) == last.info.description
        assert last.created
    assert [step.created for step in await prepared(bench, png(80))] == [False]


async def test_one_who_joins_late_gets_what_was_said_so_far_at_once(bench):
    first = bench.contexts.prepare(TENANT, ImageBytes(png(81), "image"))
    said = [await anext(first) for _ in range(6)]
    *texts, last = await prepared(bench, png(81))
    assert texts[0].startswith("".join(said))
    assert "".join(texts) == last.info.description
    rest = [step async for step in first]
    assert "".join([*said, *rest[:-1]]) == last.info.description


async def test_one_who_leaves_does_not_stop_the_pass(bench):
    leaving = bench.contexts.prepare(TENANT, ImageBytes(png(82), "image"))
    assert await anext(leaving) == ""
    await leaving.aclose()
    *_, last = await prepared(bench, png(82))
    assert last.created
    assert bench.counted("describes_total", result="done") == 1


async def test_a_pass_that_fails_names_the_field_of_each_who_waited(bench):
    """The image is damaged for both, but each called it by another name."""

    async def failing(param: str):
        with pytest.raises(InvalidRequestError) as caught:
            [step async for step in bench.contexts.prepare(TENANT, ImageBytes(b"no image", param))]
        return caught.value.param

    assert await asyncio.gather(failing("image"), failing("image_url")) == ["image", "image_url"]
