"""A chat template that prints the date before the image: an answer never stands on yesterday's tokens."""

import asyncio
import base64

import httpx2
import pytest

from lookonce_cache import MemoryStore
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.selfcheck import check_model
from lookonce_server.errors import ContextNotFoundError, ModelRefusedError

from ....support.dated_model import DATED, Clock, dated_processor, dated_prompts
from ....support.samples import EVERYTHING, GREEDY, PROMPT, TENANT, Bench, picture, png, read

pytestmark = pytest.mark.anyio

QUESTION = "How many objects are there?"


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture(scope="module")
def dated(loaded):
    """The bundled model, its template dated."""
    return loaded._replace(processor=dated_processor(loaded.processor))


@pytest.fixture(scope="module")
def engine(dated):
    engine = TransformersEngine(dated, max_running=4)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture
def whole(bench_with) -> Bench:
    """Contexts that have everything, so that their answers are those of the full pass."""
    return bench_with(MemoryStore(), EVERYTHING)


async def test_the_self_check_accepts_it(dated, clock):
    check_model(dated, PROMPT)
    clock.strike()
    check_model(dated, PROMPT)


async def test_the_image_sent_again_the_next_day_is_described_anew(bench, clock):
    first = await bench.ask(png(90), QUESTION, "compress")
    assert (await bench.ask(png(90), QUESTION)).lookup.cache == "hit"
    clock.strike()
    second = await bench.ask(png(90), QUESTION)
    assert second.lookup.cache == "miss"
    await bench.settle()
    third = await bench.ask(png(90), QUESTION)
    assert (third.lookup.cache, third.lookup.context_id) == ("hit", second.lookup.context_id)
    assert third.lookup.context_id != first.lookup.context_id


async def test_a_hit_is_the_full_pass_on_every_day(whole, clock):
    """Keys and values of the tokens before the image are those of the day's."""
    turns = (Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", (QUESTION,)))
    for _ in range(4):
        found = await whole.ask(png(91), QUESTION, "compress")
        assert (await whole.ask(png(91), QUESTION)).lookup.cache == "hit"
        full = await read(whole.engine.full(Conversation(turns), [picture(91)], GREEDY, TENANT))
        assert (found.text, found.started.prompt_tokens) == (full.text, full.started.prompt_tokens)
        clock.strike()
    assert len(whole.engine._texts._prefixes) == 2


async def test_by_id_yesterdays_context_does_not_exist(bench, clock):
    context = await bench.create(png(92))
    await bench.ask(context.id, QUESTION)
    clock.strike()
    before = await bench.contexts.stats(TENANT)
    with pytest.raises(ContextNotFoundError):
        await bench.ask(context.id, QUESTION)
    after = await bench.contexts.stats(TENANT)
    assert after.hits == before.hits  # it is no hit in the counts either
    assert after.misses > before.misses
    today = await bench.create(png(92))
    assert (await bench.ask(today.id, QUESTION)).lookup.cache == "hit"


async def test_a_day_that_begins_behind_the_lookup_is_noticed_by_the_engine(bench, clock, monkeypatch):
    """By id it is not found; with pixels at hand the whole image answers."""
    context = await bench.create(png(93))
    answer = bench.engine.answer

    def later(*args):
        clock.strike()
        return answer(*args)

    monkeypatch.setattr(bench.engine, "answer", later)
    with pytest.raises(ContextNotFoundError):
        await bench.ask(context.id, QUESTION)
    monkeypatch.setattr(bench.engine, "answer", answer)
    assert (await bench.ask(png(93), QUESTION, "compress")).lookup.cache == "miss"
    monkeypatch.setattr(bench.engine, "answer", later)
    straddling = await bench.ask(png(93), QUESTION)
    assert straddling.lookup.cache == "miss"
    assert straddling.started.prompt_tokens > 196


async def test_a_day_that_begins_before_the_describe_pass_names_its_context(bench, clock, monkeypatch):
    """What is stored has the identity of the date that the pass read, and none of yesterday's."""
    describe = bench.engine.describe

    async def later(*args):
        clock.strike()
        return await describe(*args)

    expected = bench.context_id(png(94))
    monkeypatch.setattr(bench.engine, "describe", later)
    made = await bench.ask(png(94), QUESTION, "compress")
    assert made.lookup.cache == "miss"
    assert made.lookup.context_id == bench.context_id(png(94)) != expected
    assert [one.key.id for one in await bench.listed()] == [made.lookup.context_id]
    assert (await bench.ask(made.lookup.context_id, QUESTION)).lookup.cache == "hit"
    await bench.ask(png(95), QUESTION)  # described behind the answer
    await bench.settle()
    assert (await bench.ask(png(95), QUESTION)).lookup.cache == "hit"


async def test_over_http(client: httpx2.AsyncClient, clock):
    """Asked by id, or going on from a response, yesterday's context is a 404; it is listed and shown all the same."""
    url = "data:image/png;base64," + base64.b64encode(png(96)).decode()
    made = (await client.post("/v1/contexts", json={"image_url": url})).json()
    content = [{"type": "input_text", "text": QUESTION}, {"type": "input_image", "image_url": f"lookonce:{made['id']}"}]
    asked = {"model": "m", "input": [{"role": "user", "content": content}]}
    response = (await client.post("/v1/responses", json=asked)).json()
    further = {"model": "m", "input": "Sure?", "previous_response_id": response["id"]}
    assert (await client.post("/v1/responses", json=further)).status_code == 200
    clock.strike()
    part = {"type": "image_url", "image_url": {"url": f"lookonce:{made['id']}"}}
    chat = {"model": "m", "messages": [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]}
    for path, body in (("/v1/chat/completions", chat), ("/v1/responses", asked), ("/v1/responses", further)):
        reply = await client.post(path, json=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "context_not_found"), path
    assert (await client.get(f"/v1/contexts/{made['id']}")).json()["id"] == made["id"]
    assert [one["id"] for one in (await client.get("/v1/contexts")).json()["data"]] == [made["id"]]
    again = (await client.post("/v1/contexts", json={"image_url": url})).json()
    assert again["id"] != made["id"]
    assert (await client.delete(f"/v1/contexts/{made['id']}")).status_code == 200


async def test_a_day_that_begins_while_a_context_is_prepared(client, bench, clock, monkeypatch):
    describe = bench.engine.describe

    async def later(*args):
        clock.strike()
        return await describe(*args)

    monkeypatch.setattr(bench.engine, "describe", later)
    url = "data:image/png;base64," + base64.b64encode(png(97)).decode()
    reply = await client.post("/v1/contexts", json={"image_url": url})
    assert (reply.status_code, reply.json()["id"]) == (200, bench.context_id(png(97)))


async def test_a_date_behind_the_image_changes_the_identity_too(loaded, clock):
    """A context keeps the tokens of the describe turn behind the image, and a full pass would show the new date."""
    later = DATED.replace("{{ bos_token }}{{ '<|system|>Today is ' + strftime_now('%d %B %Y') }}", "{{ bos_token }}")
    later = later.replace(
        "{%- if add_generation_prompt -%}", "{{- strftime_now('%d %B %Y') }}{%- if add_generation_prompt -%}"
    )
    prompts = dated_prompts(loaded.processor, loaded.model.config, later)
    before = prompts.describe_turn(PROMPT)
    clock.strike()
    after = prompts.describe_turn(PROMPT)
    assert before.prefix == after.prefix
    assert before.digest != after.digest


async def test_a_template_that_never_prints_the_same_is_refused(loaded, clock, monkeypatch):
    """A check that the clock spoilt once is made again; nothing that changes at each look can be served."""
    prompts = dated_prompts(loaded.processor, loaded.model.config)
    render, left = prompts._template.render, [1]

    def striking(*args):
        if left[0]:
            left[0] -= 1
            clock.strike()
        return render(*args)

    monkeypatch.setattr(prompts._template, "render", striking)
    left[0] = 2
    prompts.check_template(PROMPT)
    left[0] = 100
    with pytest.raises(ModelRefusedError, match="each time"):
        prompts.check_template(PROMPT)


async def test_a_day_that_begins_anywhere_in_the_check_of_a_template_does_not_refuse_it(loaded, clock, monkeypatch):
    prompts = dated_prompts(loaded.processor, loaded.model.config)
    render, looks = prompts._template.render, [0, 0]

    def strikes_at(*args):
        looks[0] += 1
        if looks[0] == looks[1]:
            clock.strike()
        return render(*args)

    monkeypatch.setattr(prompts._template, "render", strikes_at)
    for at in range(1, 20):
        looks[:] = [0, at]
        prompts.check_template(PROMPT)
        assert looks[0] >= at
