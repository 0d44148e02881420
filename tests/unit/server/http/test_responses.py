"""/v1/responses through the whole app: what is answered, what is kept, and how it fails."""

import asyncio
import base64
import json

import openai
import pytest
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from lookonce_cache import BlobKey, StoreUnavailableError
from lookonce_server.engines import reasoning
from lookonce_server.sessions.answer_streams import AnswerStreams

from ....support.responses_requests import LONG, NEVER, about, asked, picture, refused, streamed, text_of, unmoving
from ....support.samples import TENANT, png, tasks_of

pytestmark = pytest.mark.anyio
ITEM = TypeAdapter(ResponseItem)
TOKENS = 300


# ---- what is answered


async def test_a_response_says_what_was_asked_and_the_defaults_of_what_was_not(client):
    response = await asked(client, "Hi", max_output_tokens=None)
    assert response["id"].startswith("resp_")
    assert len(response["id"]) == 5 + 64
    told = {name: response[name] for name in ("temperature", "top_p", "top_logprobs", "max_output_tokens", "metadata")}
    assert told == {"temperature": 0.0, "top_p": 1.0, "top_logprobs": 0, "max_output_tokens": None, "metadata": {}}
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
    assert (response["store"], response["tools"], response["tool_choice"]) == (True, [], "auto")
    assert (response["truncation"], response["background"], response["instructions"]) == ("disabled", False, None)
    asking = {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 3,
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "store": False,
    }
    response = await asked(client, "Hi", **asking)
    assert {name: response[name] for name in asking} == asking


async def test_a_stream_is_the_same_response_event_by_event(client):
    whole = await asked(client, LONG)
    events = await streamed(client, LONG)
    kinds = [event["type"].removeprefix("response.") for event in events]
    deltas = kinds.count("output_text.delta")
    assert deltas > 1
    begin = ["created", "in_progress", "output_item.added", "content_part.added"]
    end = ["output_text.done", "content_part.done", "output_item.done", whole["status"]]
    assert kinds == [*begin, *["output_text.delta"] * deltas, *end]
    text = "".join(event["delta"] for event in events if event["type"].endswith("text.delta"))
    last = events[-1]["response"]
    assert text == events[-4]["text"] == events[-3]["part"]["text"] == text_of(last) == text_of(whole)
    assert events[0]["response"]["status"] == events[1]["response"]["status"] == "in_progress"
    assert events[0]["response"]["id"] == last["id"]
    assert events[-2]["item"] == last["output"][0]
    assert {event["item_id"] for event in events if "item_id" in event} == {last["output"][0]["id"]}
    assert unmoving(last) == unmoving(whole)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_cut_short_is_incomplete(client, stream):
    if stream:
        last = (await streamed(client, LONG, max_output_tokens=2))[-1]
        assert last["type"] == "response.incomplete"
        response = last["response"]
    else:
        response = await asked(client, LONG, max_output_tokens=2)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"
    assert response["completed_at"] is None
    assert response["usage"]["output_tokens"] == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities(client, stream):
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    if stream:
        events = await streamed(client, **fields)
        response = events[-1]["response"]
        deltas = [one for event in events if event["type"].endswith("text.delta") for one in event["logprobs"]]
        assert deltas == response["output"][0]["content"][0]["logprobs"] == events[-4]["logprobs"]
    else:
        response = await asked(client, **fields)
    entries = response["output"][0]["content"][0]["logprobs"]
    assert "".join(entry["token"] for entry in entries).strip() == text_of(response)
    assert {len(entry["top_logprobs"]) for entry in entries} == {2}
    kept = (await client.get(f"/v1/responses/{response['id']}")).json()
    assert kept["output"][0]["content"][0]["logprobs"] == []


async def test_a_context_answers_what_goes_on(client, bench):
    first = await asked(client, about(picture(81)))
    assert first["lookonce"]["cache"] == "miss"
    second = await asked(client, "How many objects are there?", previous_response_id=first["id"])
    assert (second["lookonce"]["cache"], second["lookonce"]["context_id"]) == ("hit", bench.context_id(png(81)))
    usage = second["usage"]
    assert usage["input_tokens_details"]["cached_tokens"] == second["lookonce"]["context_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


async def test_going_on_is_the_same_as_saying_all_again(client):
    first = await asked(client, about(picture(81)), instructions="Be kind.")
    context = f"lookonce:{first['lookonce']['context_id']}"
    second = await asked(client, "And?", previous_response_id=first["id"], instructions="Be brief.")
    third = await asked(client, "Why?", previous_response_id=second["id"])
    said = {"role": "user", "content": "And?"}
    again = await asked(
        client, [*about(context), *first["output"], said], instructions="Be brief.", metadata={"an": "other"}
    )
    assert (text_of(again), again["usage"]) == (text_of(second), second["usage"])
    plain = [*about(context), *first["output"], said, *second["output"], {"role": "user", "content": "Why?"}]
    again = await asked(client, plain)
    assert (text_of(again), again["usage"]) == (text_of(third), third["usage"])


async def test_two_that_go_on_from_one_do_not_meet(client):
    first = await asked(client, "Hi")
    left, right = [await asked(client, text, previous_response_id=first["id"]) for text in ("Left", "Right")]
    for response, text in ((left, "Left"), (right, "Right")):
        items = (await client.get(f"/v1/responses/{response['id']}/input_items")).json()["data"]
        assert [item["content"][0]["text"] for item in items] == [text, text_of(first), "Hi"]
    await client.delete(f"/v1/responses/{first['id']}")
    assert text_of(await asked(client, "More", previous_response_id=left["id"])) is not None


async def test_the_metrics_count_a_request_once(client, bench):
    await asked(client)
    await streamed(client)
    await refused(client, tools=[{"type": "web_search"}])
    await refused(client, 404, previous_response_id=NEVER)
    assert bench.counted("requests_total", cache="none", status="200") == 2
    assert bench.counted("request_duration_seconds_count", cache="none") == 2
    assert bench.counted("requests_total", cache="none", status="404") == 1


# ---- what is kept


async def test_what_is_kept_can_be_seen_and_forgotten(client):
    response = await asked(client, about(picture(82)), instructions="Be brief.", metadata={"k": "v"})
    path = f"/v1/responses/{response['id']}"
    assert (await client.get(path)).json() == response
    deleted = await client.delete(path)
    assert deleted.json() == {"id": response["id"], "object": "response", "deleted": True}
    for method in ("GET", "DELETE"):
        reply = await client.request(method, path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "response_not_found")
    error = await refused(client, 404, previous_response_id=response["id"])
    assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_found")
    assert response["id"] in error["message"]


async def test_the_messages_that_were_answered_are_listed(client):
    first = await asked(client, about(picture(82), "What?"), instructions="Be brief.")
    system = {"role": "developer", "content": "Be kind."}
    second = await asked(client, [system, {"role": "user", "content": "And?"}], previous_response_id=first["id"])

    async def listed(**query) -> dict:
        reply = await client.get(f"/v1/responses/{second['id']}/input_items", params=query)
        assert reply.status_code == 200, reply.text
        return reply.json()

    everything = await listed(order="asc")
    for item in everything["data"]:
        ITEM.validate_json(json.dumps(item), strict=True)
    image = {"type": "input_image", "detail": "auto", "image_url": f"lookonce:{first['lookonce']['context_id']}"}
    assert [(item["role"], item["content"]) for item in everything["data"]] == [
        ("user", [image, {"type": "input_text", "text": "What?"}]),
        ("assistant", [{"type": "output_text", "text": text_of(first), "annotations": []}]),
        ("developer", [{"type": "input_text", "text": "Be kind."}]),
        ("user", [{"type": "input_text", "text": "And?"}]),
    ]
    assert everything["data"][1]["id"] == first["output"][0]["id"]
    newest = await listed(limit=3)
    assert (newest["data"], newest["has_more"]) == (everything["data"][:0:-1], True)
    rest = await listed(limit=3, after=newest["last_id"])
    assert (rest["data"], rest["has_more"]) == (everything["data"][:1], False)
    reply = await client.get(f"/v1/responses/{second['id']}/input_items", params={"after": "msg_x"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "after")


async def test_no_record_has_a_pixel_or_more_than_a_tenants_key_opens(client, bench):
    response = await asked(client, about(picture(82)))
    key = BlobKey(TENANT, response["id"].removeprefix("resp_"))
    value = await bench.store.records.read(key)
    assert base64.b64encode(png(82))[:200] not in value
    assert len(value) < 3000
    assert await bench.store.records.read(BlobKey("another", key.id)) is None


async def test_what_is_not_to_be_kept_is_not(client, bench):
    response = await asked(client, store=False)
    assert response["store"] is False
    assert (await client.get(f"/v1/responses/{response['id']}")).status_code == 404
    assert "store=false" in (await refused(client, 404, previous_response_id=response["id"]))["message"]
    assert bench.store.records.used_bytes == 0


async def test_a_server_that_keeps_nothing_refuses_to_go_on(client_with, bench):
    async with client_with(store_responses=False) as client:
        response = await asked(client)
        assert response["store"] is False
        assert (await streamed(client, store=False))[-1]["response"]["store"] is False
        for name, value in (("previous_response_id", response["id"]), ("store", True)):
            error = await refused(client, **{name: value})
            assert error["param"] == name
            assert "keeps no responses" in error["message"]
    assert bench.store.records.used_bytes == 0


@pytest.mark.parametrize("value", [b"", b"{}", b"\xff", b"[1]", b'{"response": {}, "items": [], "image": null}'])
async def test_a_record_of_something_else_is_not_found(client, bench, value):
    await bench.store.records.write(BlobKey(TENANT, "0" * 64), value)
    error = await refused(client, 404, previous_response_id=NEVER)
    assert error["code"] == "previous_response_not_found"
    assert (await client.get(f"/v1/responses/{NEVER}")).status_code == 404


@pytest.mark.parametrize("id_", ["x", "resp_", "resp_" + "0" * 63, "resp_" + "G" * 64, "0" * 64, "resp_" + "0" * 65])
async def test_what_is_no_id_is_not_found(client, id_):
    assert (await client.get(f"/v1/responses/{id_}")).status_code == 404
    assert (await client.delete(f"/v1/responses/{id_}")).status_code == 404
    assert (await refused(client, 404, previous_response_id=id_))["code"] == "previous_response_not_found"


@pytest.mark.parametrize("query", ["include=message.output_text.logprobs", "stream=true", "starting_after=1"])
async def test_what_cannot_be_asked_of_a_kept_response_is_refused(client, query):
    response = await asked(client)
    reply = await client.get(f"/v1/responses/{response['id']}?{query}")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, query.partition("=")[0])


async def test_a_conversation_that_is_too_long_to_keep_is_refused_before_any_work(client, bench, monkeypatch):
    text = "x" * 600_000
    error = await refused(client, input_=text)
    assert (error["param"], "store=false" in error["message"]) == ("input", True)
    assert bench.counted("prompt_tokens_processed_total") == 0
    error = await refused(client, input_=text, store=False)
    assert error["code"] == "context_length_exceeded"


async def test_an_answer_that_cannot_be_kept_is_given_all_the_same(client, bench, monkeypatch):
    async def unavailable(*_, **__):
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(bench.store.records, "write", unavailable)
    response = await asked(client)
    assert (response["store"], response["status"]) == (False, "completed")
    assert (await streamed(client))[-1]["response"]["store"] is False
    monkeypatch.setattr(bench.store.records, "read", unavailable)
    error = await refused(client, 503, previous_response_id=response["id"])
    assert error["code"] == "store_unavailable"


# ---- the image of a conversation


async def listed_images(client, response: dict) -> list[str]:
    """The images of the conversation that a response answered, oldest first."""
    items = (await client.get(f"/v1/responses/{response['id']}/input_items?order=asc")).json()["data"]
    return [part["image_url"] for item in items for part in item["content"] if part["type"] == "input_image"]


async def test_the_same_image_may_come_again_and_is_one(client, bench):
    first = await asked(client, about(picture(83)))
    context = f"lookonce:{first['lookonce']['context_id']}"
    for image in (picture(83), context):
        again = await asked(client, about(image), previous_response_id=first["id"])
        assert (again["lookonce"]["cache"], len(again["lookonce"]["images"])) == ("hit", 1)
        assert await listed_images(client, again) == [context, context]
    gone = await refused(client, 404, input_=about(f"lookonce:{'0' * 64}"), previous_response_id=first["id"])
    assert gone["code"] == "context_not_found"


async def test_the_image_alone_asks_to_describe_it_the_second_time_too(client):
    alone = [{"type": "input_image", "image_url": picture(83), "detail": "auto"}]
    first = await asked(client, about(picture(83)))
    again = await asked(
        client, [{"role": "user", "content": alone}], previous_response_id=first["id"], lookonce={"cache": "bypass"}
    )
    said = await asked(
        client,
        about(picture(83), "Describe the image."),
        previous_response_id=first["id"],
        lookonce={"cache": "bypass"},
    )
    assert text_of(again) == text_of(said)


async def test_an_image_may_come_into_a_conversation_later(client):
    first = await asked(client, "Hi")
    second = await asked(client, about(picture(83)), previous_response_id=first["id"])
    third = await asked(client, "And?", previous_response_id=second["id"])
    assert third["lookonce"]["context_id"] == second["lookonce"]["context_id"]


async def test_a_context_that_is_gone_is_asked_for_by_the_image(client, bench):
    first = await asked(client, about(picture(83)))
    await bench.settle()
    await client.delete(f"/v1/contexts/{first['lookonce']['context_id']}")
    error = await refused(client, 404, previous_response_id=first["id"])
    assert (error["code"], "Send the image again" in error["message"]) == ("context_not_found", True)
    again = await asked(client, about(picture(83)), previous_response_id=first["id"])
    assert again["lookonce"]["cache"] == "miss"
    assert (await asked(client, "And?", previous_response_id=again["id"]))["lookonce"]["cache"] == "hit"


async def test_an_image_that_was_asked_about_past_the_cache_must_come_again(client):
    bypassing = {"lookonce": {"cache": "bypass"}}
    first = await asked(client, about(picture(85)), **bypassing)
    error = await refused(client, 404, previous_response_id=first["id"])
    assert (error["code"], "Send the image again" in error["message"]) == ("context_not_found", True)
    second = await asked(client, about(picture(85)), previous_response_id=first["id"])
    assert (await asked(client, "And?", previous_response_id=second["id"]))["lookonce"]["cache"] == "hit"
    error = await refused(client, previous_response_id=second["id"], **bypassing)
    assert (error["param"], "send it again" in error["message"]) == ("lookonce.cache", True)
    third = await asked(client, about(picture(85)), previous_response_id=second["id"], **bypassing)
    assert (await asked(client, "And?", previous_response_id=third["id"]))["lookonce"]["cache"] == "hit"


# ---- what goes wrong half-way


async def assert_stopped(engine) -> None:
    assert not tasks_of(AnswerStreams)
    async with asyncio.timeout(30):
        while engine.queue_depth:  # noqa: ASYNC110 - it tells no event
            await asyncio.sleep(0.001)


async def test_a_stream_that_fails_ends_with_the_failed_response_and_the_error(client, bench, failing):
    *events, failed, error = await streamed(client, LONG, max_output_tokens=TOKENS)
    assert "response.output_text.delta" in {event["type"] for event in events}
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"]["code"] == "server_error"
    assert (failed["response"]["store"], failed["response"]["output"]) == (False, [])
    assert (error["type"], error["code"], error["error"]["code"]) == ("error", "engine_error", "engine_error")
    assert "a secret" not in json.dumps([failed, error])
    await assert_stopped(bench.engine)
    assert bench.store.records.used_bytes == 0
    assert bench.counted("requests_total", cache="none", status="500") == 1


async def test_openais_client_raises_what_fails_halfway(client, failing):
    async with openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="any", http_client=client) as speaking:
        stream = await speaking.responses.create(model="m", input=LONG, stream=True)
        with pytest.raises(openai.APIError) as caught:
            [event async for event in stream]
    assert (caught.value.code, caught.value.body["type"]) == ("engine_error", "server_error")


async def test_one_that_is_not_streamed_fails_as_a_whole(client, bench, failing):
    error = await refused(client, 500, input_=LONG, max_output_tokens=TOKENS)
    assert error["code"] == "engine_error"
    await assert_stopped(bench.engine)
    assert bench.store.records.used_bytes == 0


# ---- what a model thinks before it answers


@pytest.fixture
def thought(engine, monkeypatch):
    """A model that reasons, of one that does not: a word that it says ends its thought."""

    def end_at(word: str) -> None:
        monkeypatch.setattr(reasoning, "END", word)
        monkeypatch.setitem(vars(engine._prompts._template), "reasoning", reasoning.ReasoningFormat(is_opened=True))

    return end_at


async def test_reasoning_is_an_item_before_the_answer(client, thought):
    made = await client.post("/v1/contexts", json={"image_url": picture(950)})
    image = f"lookonce:{made.json()['id']}"
    asking = {"input_": about(image, "Describe the image."), "max_output_tokens": 40}
    plain = text_of(await asked(client, **asking))
    # However short: some two letters in its midst.
    end = next(plain[i : i + 2] for i in range(1, len(plain)) if plain.find(plain[i : i + 2]) == i and plain[i] != " ")
    expected = [text.strip() for text in plain.split(end, 1)]
    thought(end)
    response = await asked(client, **asking)
    item, message = response["output"]
    assert (item["type"], item["status"], item["summary"]) == ("reasoning", "completed", [])
    assert item["content"] == [{"type": "reasoning_text", "text": expected[0]}]
    assert text_of(response) == expected[1]
    tokens = response["usage"]["output_tokens_details"]["reasoning_tokens"]
    assert 0 < tokens <= response["usage"]["output_tokens"]
    assert (await client.get(f"/v1/responses/{response['id']}")).json() == response
    # It is no part of the conversation, however it goes on.
    then = await asked(client, "Why?", previous_response_id=response["id"], store=False)
    said = [*about(image, "Describe the image."), item, message]
    again = await asked(client, [*said, {"role": "user", "content": "Why?"}])
    assert then["usage"]["input_tokens"] == again["usage"]["input_tokens"]
    assert text_of(then) == text_of(again)


@pytest.mark.parametrize("logprobs", [False, True])
async def test_reasoning_is_streamed_as_an_item_of_its_own(client, thought, logprobs):
    asking = {
        "input_": about(picture(951), "Describe the image."),
        "max_output_tokens": 40,
        "lookonce": {"cache": "bypass"},
    }
    if logprobs:
        asking |= {"include": ["message.output_text.logprobs"]}
    end = text_of(await asked(client, **asking)).split()[3]
    thought(end)
    whole = await asked(client, **asking)
    events = await streamed(client, **asking)
    kinds = [event["type"].removeprefix("response.") for event in events]
    thoughts, answers = kinds.count("reasoning_text.delta"), kinds.count("output_text.delta")
    assert min(thoughts, answers) > 1
    begin, finish = ["output_item.added", "content_part.added"], ["content_part.done", "output_item.done"]
    assert kinds == [
        *("created", "in_progress"),
        *(*begin, *["reasoning_text.delta"] * thoughts, "reasoning_text.done", *finish),
        *(*begin, *["output_text.delta"] * answers, "output_text.done", *finish),
        whole["status"],
    ]
    last = events[-1]["response"]
    for index, item in enumerate(last["output"]):
        own = [event for event in events if event.get("output_index") == index]
        assert own[0]["item"] == item | {"status": "in_progress", "content": []}
        assert own[-1]["item"] == item
        assert "".join(event.get("delta", "") for event in own) == item["content"][0]["text"] == own[-3]["text"]
        assert {event.get("item_id", item["id"]) for event in own} == {item["id"]}
    told = [entry for event in events for entry in event.get("logprobs", ()) if "delta" in event]
    assert told == last["output"][1]["content"][0]["logprobs"]
    assert bool(told) == logprobs
    assert [item["content"] for item in last["output"]] == [item["content"] for item in whole["output"]]
    assert last["usage"]["output_tokens_details"] == whole["usage"]["output_tokens_details"]


async def test_reasoning_cut_short_is_all_there_is(client, thought):
    thought("never said")
    response = await asked(client, LONG, max_output_tokens=4)
    (item,) = response["output"]
    assert (response["status"], item["type"], item["status"]) == ("incomplete", "reasoning", "incomplete")
    events = await streamed(client, LONG, max_output_tokens=4)
    assert events[-2]["item"]["content"] == item["content"]
    assert events[-1]["response"]["output"][0]["content"] == item["content"]
    assert text_of(await asked(client, "And?", previous_response_id=response["id"])) is not None
    done = await asked(client, about(picture(952)), max_output_tokens=100)
    assert (done["status"], [item["type"] for item in done["output"]]) == ("completed", ["reasoning", "message"])
    assert text_of(done) == ""


async def test_openais_stream_puts_reasoning_together(client, thought):
    async with openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="any", http_client=client) as speaking:
        asking = {"model": "m", "input": about(picture(953), "Describe the image."), "max_output_tokens": 40}
        asking["extra_body"] = {"lookonce": {"cache": "bypass"}}
        thought((await speaking.responses.create(**asking)).output_text.split()[3])
        async with speaking.responses.stream(**asking) as stream:
            kinds = [event.type async for event in stream]
            response = await stream.get_final_response()
    assert kinds.count("response.reasoning_text.done") == 1
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output[0].content[0].text
    assert response.usage.output_tokens_details.reasoning_tokens > 0
