"""Questions about several images through the whole app: what is read, what is answered, and what is told of it."""

import asyncio
import base64
import logging

import pytest

from lookonce_server.errors import InvalidImageError
from lookonce_server.http.image_field import ImageField
from lookonce_server.http.image_reader import ImageReader
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ContextReference, ImageBytes
from lookonce_server.logs import RequestFacts
from lookonce_server.sessions.fallback import Fallback

from ....support.app_requests import OTHER_URL, URL, body, events_of, image, send, user
from ....support.responses_requests import about, asked, picture, refused, streamed, text_of
from ....support.samples import TENANT, png

pytestmark = pytest.mark.anyio
QUESTION = "How many objects are there?"
BOTH = user(image(), image(OTHER_URL), QUESTION)


def lookonce(reply) -> dict:
    assert reply.status_code == 200, reply.text
    return reply.json()["lookonce"]


# --- what is read -----------------------------------------------------------------------------------------------------


async def test_images_are_read_at_once_and_the_first_bad_one_in_order_is_named(app, monkeypatch):
    reading, all_read = [], asyncio.Event()

    async def read(self, url, param, sampling):
        reading.append(url)
        if len(reading) == 4:
            all_read.set()
        await all_read.wait()
        if url == "slow and bad":
            await asyncio.sleep(0.01)
        if url.endswith("bad"):
            raise InvalidImageError(url, param=param)
        await asyncio.Event().wait()

    monkeypatch.setattr(Images, "read", read)
    fields = [ImageField(url, f"place {i}") for i, url in enumerate(("slow and bad", "bad", "endless", "more endless"))]
    tasks = asyncio.all_tasks()
    with pytest.raises(InvalidImageError) as caught:
        await ImageReader(app.state.parts, "default").read_all(fields)
    assert (caught.value.param, asyncio.all_tasks() - tasks) == ("place 0", set())


async def test_images_have_together_as_many_bytes_as_a_body_may(app_with, monkeypatch):
    state = app_with(max_image_bytes=1, max_video_bytes=1).state.parts

    async def read(self, url, param, sampling):
        return ImageBytes(bytes(600_000), param) if url == "large" else ContextReference(url)

    monkeypatch.setattr(Images, "read", read)
    reader = ImageReader(state, "default")
    assert len(await reader.read_all([ImageField("large", ""), ImageField("id", "")])) == 2
    with pytest.raises(InvalidImageError, match=f"the limit of {state.settings.max_body_bytes}") as caught:
        await reader.read_all([ImageField("large", ""), ImageField("large", "")])
    assert caught.value.param == "messages"


# --- what is told -----------------------------------------------------------------------------------------------------


async def test_an_answer_tells_its_images_and_their_sum(app, bench, caplog):
    caplog.set_level(logging.INFO)
    contexts = [await bench.create(png(seed)) for seed in (1, 2)]
    ids = [context.id for context in contexts]
    reply = await send(app, body(messages=[BOTH]))
    told, usage = lookonce(reply), reply.json()["usage"]
    assert told["images"] == [
        {
            "context_id": context.id,
            "cache": "hit",
            "tier": "memory",
            "context_tokens": context.tokens,
            "image_tokens": context.image_tokens,
        }
        for context in contexts
    ]
    assert (told["cache"], told["tier"], told["context_id"], told["image_tokens"]) == ("hit", "memory", None, 2 * 196)
    seam = told["context_tokens"] - sum(context.stored_tokens for context in contexts) - contexts[0].shared_tokens
    assert 0 < seam < 10
    assert usage["prompt_tokens_details"]["cached_tokens"] == told["context_tokens"]
    assert told["tokens_saved"] >= told["image_tokens"]
    assert reply.headers["x-lookonce-context"] == ",".join(ids)
    assert reply.headers["x-lookonce-cache"] == "hit"
    (line,) = [record.facts for record in caplog.records if isinstance(getattr(record, "facts", None), RequestFacts)]
    assert (line.cache, line.images, line.hits, line.saved_tokens) == ("hit", 2, 2, told["tokens_saved"])
    names = ("joined_answers_total", "request_images_sum", "request_images_count")
    assert [bench.counted(name) for name in names] == [1, 2, 1]
    assert bench.counted("context_answers_total", tier="memory") == 2


async def test_one_image_and_none_are_told_in_the_same_way(app, bench):
    context = await bench.create(png(1))
    one = lookonce(await send(app, body(messages=[user(image(), QUESTION)])))
    same = {name: one[name] for name in ("context_id", "cache", "tier", "context_tokens", "image_tokens")}
    assert (one["context_id"], one["images"]) == (context.id, [same])
    none = await send(app, body())
    assert (lookonce(none)["images"], "x-lookonce-context" in none.headers) == ([], False)
    assert bench.counted("joined_answers_total") == 0


async def test_a_miss_tells_which_images_were_new(app, bench):
    context = await bench.create(png(1))
    request = body(messages=[BOTH])
    full = lookonce(await send(app, request))
    await bench.settle()
    await bench.contexts.delete(TENANT, bench.context_id(png(2)))
    joined = lookonce(await send(app, request | {"lookonce": {"on_miss": "compress"}}))
    for told in (full, joined):
        assert (told["cache"], [one["cache"] for one in told["images"]]) == ("miss", ["hit", "miss"])
        assert [one["context_id"] for one in told["images"]] == [context.id, bench.context_id(png(2))]
    assert (full["tokens_saved"], full["context_tokens"], full["image_tokens"]) == (0, 0, 0)
    assert {one["context_tokens"] for one in full["images"]} == {0}
    assert [one["tier"] for one in (*full["images"], *joined["images"])] == [None, None, "memory", None]
    assert (joined["tier"], joined["image_tokens"]) == (None, 2 * 196)


async def test_a_stream_tells_the_images_and_has_the_same_text(app, bench):
    for seed in (1, 2):
        await bench.create(png(seed))
    request = body(messages=[BOTH], max_tokens=24)
    whole = (await send(app, request)).json()
    first, *_, last = events = events_of(await send(app, request | {"stream": True}))
    assert first["lookonce"] == last["lookonce"] == whole["lookonce"]
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    assert text == whole["choices"][0]["message"]["content"]


async def test_a_fallback_needs_all_images(app, bench_with, bench, monkeypatch):
    monkeypatch.setattr(bench.sessions, "_fallback", Fallback(margin=float("inf")))
    monkeypatch.setattr(bench.sessions._passes, "_fallback", Fallback(margin=float("inf")))
    context = await bench.create(png(2))
    await bench.create(png(1))
    wanted = {"lookonce": {"fallback": True}}
    again = lookonce(await send(app, body(messages=[BOTH], **wanted)))
    assert (again["cache"], again["fallback"], again["context_tokens"]) == ("hit", "full_pass", 0)
    assert [one["context_tokens"] for one in again["images"]] == [0, 0]
    named = user(image(), image(f"lookonce:{context.id}"), QUESTION)
    assert lookonce(await send(app, body(messages=[named], **wanted)))["fallback"] == "no_image"


# --- conversations ----------------------------------------------------------------------------------------------------


async def test_an_image_a_turn_costs_one_describe_pass_a_turn(app, bench):
    """As an agent sends its screenshots: all that was said comes again, with one more."""
    messages = []
    for turn, seed in enumerate(range(201, 206)):
        url = "data:image/png;base64," + base64.b64encode(png(seed)).decode()
        messages.append(user(f"Step {turn}.", image(url)))
        reply = await send(app, body(messages=messages))
        told = lookonce(reply)
        assert [one["cache"] for one in told["images"]] == ["hit"] * turn + ["miss"]
        await bench.settle()
        assert bench.counted("describes_total", result="done") == turn + 1
        again = lookonce(await send(app, body(messages=messages)))
        assert (again["cache"], len(again["images"])) == ("hit", turn + 1)
        messages.append(reply.json()["choices"][0]["message"])
    assert bench.counted("describes_total", result="done") == 5


async def test_responses_go_on_with_more_images(client, bench):
    first = await asked(client, about(picture(86)))
    second = await asked(client, about(picture(87)), previous_response_id=first["id"])
    third = await asked(client, about(picture(86)), previous_response_id=second["id"])
    last = await asked(client, "And?", previous_response_id=third["id"])
    ids = [bench.context_id(png(seed)) for seed in (86, 87)]
    assert [len(response["lookonce"]["images"]) for response in (first, second, third, last)] == [1, 2, 2, 2]
    assert [one["cache"] for one in second["lookonce"]["images"]] == ["hit", "miss"]
    assert [one["context_id"] for one in last["lookonce"]["images"]] == ids
    items = (await client.get(f"/v1/responses/{last['id']}/input_items?order=asc")).json()["data"]
    shown = [part["image_url"] for item in items for part in item["content"] if part["type"] == "input_image"]
    assert shown == [f"lookonce:{ids[number]}" for number in (0, 1, 0)]
    said = [*about(f"lookonce:{ids[0]}"), *first["output"], *about(f"lookonce:{ids[1]}"), *second["output"]]
    said += [*about(f"lookonce:{ids[0]}"), *third["output"], {"role": "user", "content": "And?"}]
    again = await asked(client, said)
    assert (text_of(again), again["usage"]) == (text_of(last), last["usage"])
    events = await streamed(client, "And?", previous_response_id=third["id"])
    assert events[-1]["response"]["lookonce"]["images"] == last["lookonce"]["images"]


async def test_responses_are_bounded_by_all_images_of_the_conversation(client_with, bench):
    async with client_with(max_images=2) as client:
        response = await asked(client, [*about(picture(86)), *about(picture(87))])
        again = await asked(client, about(picture(86)), previous_response_id=response["id"])
        assert len(again["lookonce"]["images"]) == 2
        for said in (about(picture(88)), [*about(picture(86)), *about(picture(88))]):
            error = await refused(client, input_=said, previous_response_id=response["id"])
            assert error["param"] == f"input[{len(said) - 1}].content[0].image_url"
            assert "3 different images" in error["message"]
        error = await refused(client, input_=[item for seed in (86, 87, 88) for item in about(picture(seed))])
        assert error["param"] == "input[2].content[0].image_url"
    async with client_with(max_images=1) as client:
        error = await refused(client, input_="And?", previous_response_id=response["id"])
        assert (error["param"], "2 different images" in error["message"]) == ("previous_response_id", True)


async def test_a_response_past_the_cache_needs_all_images_again(client):
    bypassing = {"lookonce": {"cache": "bypass"}}
    both = [*about(picture(86)), *about(picture(87))]
    first = await asked(client, both, **bypassing)
    error = await refused(client, 404, input_=about(picture(86)), previous_response_id=first["id"])
    assert "Send the image again" in error["message"]
    again = await asked(client, both, previous_response_id=first["id"], **bypassing)
    assert again["lookonce"]["cache"] == "bypass"
    error = await refused(client, input_=about(picture(86)), previous_response_id=first["id"], **bypassing)
    assert error["param"] == "lookonce.cache"
    second = await asked(client, both, previous_response_id=first["id"])
    assert (await asked(client, "And?", previous_response_id=second["id"]))["lookonce"]["cache"] == "hit"


async def test_too_many_images_are_refused_before_one_is_read(app_with, bench):
    app = app_with(max_images=1)
    error = (await send(app, body(messages=[BOTH]))).json()["error"]
    assert error["param"] == "messages[0].content[1].image_url.url"
    assert error["message"] == "The conversation has 2 different images; this server accepts at most 1."
    assert URL != OTHER_URL
    assert bench.counted("image_decodes_total", outcome="decoded") == 0


async def test_a_damaged_image_among_others_is_named(app, bench):
    bad = "data:image/png;base64," + base64.b64encode(png(3)[:90]).decode()
    for wanted in ({}, {"on_miss": "compress"}, {"cache": "bypass"}):
        request = body(messages=[user(image(), "and", image(bad), QUESTION)], lookonce=wanted)
        error = (await send(app, request)).json()["error"]
        assert (error["code"], error["param"]) == ("invalid_image", "messages[0].content[2].image_url.url")
        await bench.settle()
