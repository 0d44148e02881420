"""The ways in which OpenAI's own client may ask: async, its streaming helper, raw responses, resent history."""

import asyncio
from typing import Annotated, Literal

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, Field
from transformers import AutoTokenizer

from lookonce_scenes import CHECKPOINT

from ..support.pictures import data_url, find_question, messages, picture_url, png
from ..support.server_process import MODEL

SEED = 131
FIND = find_question(SEED)
OPTIONS = {"model": MODEL, "max_tokens": 24}


class Seen(BaseModel):
    """What is asked for as JSON."""

    color: Literal["red", "green", "blue", "yellow"]
    count: Annotated[int, Field(ge=0, le=9)]


@pytest.fixture(scope="module")
def context(server) -> str:
    """The URL of a context that the server keeps."""
    made = server.post("/v1/contexts", json={"image_url": picture_url(SEED)})
    return f"lookonce:{made.json()['id']}"


@pytest.fixture(scope="module")
def whole(client, context) -> ChatCompletion:
    """The answer that every other way of asking must give."""
    return client.chat.completions.create(messages=messages(FIND, context), **OPTIONS)


def text_of(completion: ChatCompletion) -> str:
    content = completion.choices[0].message.content
    assert content is not None
    return content


def test_the_answer_is_one(whole):
    assert text_of(whole)
    assert whole.service_tier == "default"
    assert whole.system_fingerprint is not None
    assert whole.system_fingerprint.startswith("fp_")
    assert whole.usage is not None
    assert whole.usage.completion_tokens_details is not None


def test_the_async_client_gets_the_same(server, context, whole):
    async def ask() -> tuple[ChatCompletion, list[ChatCompletionChunk]]:
        http = openai.DefaultAsyncHttpx2Client(trust_env=False)
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", http_client=http) as client:
            asked = client.chat.completions.create(messages=messages(FIND, context), **OPTIONS)
            stream = await client.chat.completions.create(messages=messages(FIND, context), stream=True, **OPTIONS)
            return await asked, [chunk async for chunk in stream]

    completion, chunks = asyncio.run(ask())
    assert text_of(completion) == text_of(whole)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text_of(whole)


def test_the_streaming_helper_puts_the_same_together(client, context, whole):
    asked = client.chat.completions.stream(
        messages=messages(FIND, context), logprobs=True, stream_options={"include_usage": True}, **OPTIONS
    )
    with asked as stream:
        events = list(stream)
        final = stream.get_final_completion()
    assert "".join(event.delta for event in events if event.type == "content.delta") == text_of(whole)
    assert [event.content for event in events if event.type == "content.done"] == [text_of(whole)]
    assert text_of(final) == text_of(whole)
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason
    assert final.usage == whole.usage
    assert final.choices[0].logprobs is not None
    assert "".join(one.token for one in final.choices[0].logprobs.content or []).strip() == text_of(whole)


def test_an_answer_is_parsed_into_a_model(client, context):
    asked = {"messages": messages("What is there?", context), "response_format": Seen, **OPTIONS}
    completion = client.chat.completions.parse(**asked)
    seen = completion.choices[0].message.parsed
    assert isinstance(seen, Seen)
    with client.chat.completions.stream(**asked) as stream:
        events = list(stream)
        assert stream.get_final_completion().choices[0].message.parsed == seen
    assert [event.parsed for event in events if event.type == "content.done"] == [seen]


def test_an_answer_may_be_any_json_object(client, context):
    completion = client.chat.completions.create(
        messages=messages(FIND, context), response_format={"type": "json_object"}, **OPTIONS
    )
    assert text_of(completion).startswith("{")


def test_a_schema_that_cannot_be_kept_to_is_refused(client, context):
    schema = {"type": "array", "uniqueItems": True}
    wanted = {"type": "json_schema", "json_schema": {"name": "list", "schema": schema, "strict": True}}
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
        client.chat.completions.create(messages=messages(FIND, context), response_format=wanted, **OPTIONS)
    assert caught.value.param == "response_format"


def test_raw_and_streamed_responses(client, context, whole):
    raw = client.chat.completions.with_raw_response.create(messages=messages(FIND, context), **OPTIONS)
    assert raw.headers["content-type"] == "application/json"
    assert text_of(raw.parse()) == text_of(whole)
    asked = client.chat.completions.with_streaming_response.create(messages=messages(FIND, context), **OPTIONS)
    with asked as response:
        assert text_of(response.parse()) == text_of(whole)


def test_history_that_is_sent_again_with_its_image_is_a_hit(client, context, whole):
    """As agents do: every turn is kept as it was sent, the answers as they came, the picture in more than one."""
    for image in (context, picture_url(SEED)):
        chat = messages(FIND, image)
        first = client.chat.completions.create(messages=chat, **OPTIONS)
        chat += [first.choices[0].message, *messages("What is at the center?", image)]
        second = client.chat.completions.create(messages=chat, **OPTIONS)
        chat += [second.choices[0].message, *messages("How many objects are there?", None)]
        third = client.chat.completions.create(messages=chat, **OPTIONS)
        assert [one.lookonce["cache"] for one in (first, second, third)] == ["hit"] * 3
        assert len({one.lookonce["context_id"] for one in (first, second, third)}) == 1
        assert text_of(first) == text_of(whole)


def test_the_pixels_and_the_id_of_one_image_are_one(client, context):
    chats = [[*messages(FIND, first), *messages(FIND, context)] for first in (picture_url(SEED), context)]
    mixed, same = [client.chat.completions.create(messages=chat, **OPTIONS) for chat in chats]
    assert (len(mixed.lookonce["images"]), text_of(mixed), mixed.usage) == (1, text_of(same), same.usage)


def test_an_image_alone_is_described(client):
    picture = data_url(png(132))
    alone = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture}}]}]
    options = OPTIONS | {"max_tokens": 64}
    miss = client.chat.completions.create(messages=alone, **options)
    hit = client.chat.completions.create(messages=alone, **options)
    assert [one.lookonce["cache"] for one in (miss, hit)] == ["miss", "hit"]
    context = client.get(f"/contexts/{hit.lookonce['context_id']}", cast_to=object)
    assert text_of(miss) == context["description"]
    asked = client.chat.completions.create(messages=messages("Describe the image.", picture), **options)
    assert text_of(hit) == text_of(asked)


def test_the_order_of_text_and_image_changes_nothing_on_a_hit(client, context, whole):
    image = {"type": "image_url", "image_url": {"url": context}}
    for content in ([image, {"type": "text", "text": FIND}], [{"type": "text", "text": FIND}, image]):
        completion = client.chat.completions.create(messages=[{"role": "user", "content": content}], **OPTIONS)
        assert text_of(completion) == text_of(whole)


@pytest.mark.parametrize("place", ["first", "between"])
def test_the_image_may_stand_in_an_earlier_turn(client, context, place):
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": context}}]}]
    chat = [*picture, *said] if place == "first" else [*said, *picture]
    completion = client.chat.completions.create(
        messages=[{"role": "developer", "content": "Be brief."}, *chat, {"role": "user", "content": FIND}], **OPTIONS
    )
    assert completion.lookonce["cache"] == "hit"
    assert text_of(completion)


def test_a_bias_bans_a_token_or_forces_it(client, context, whole):
    first, second, *_ = AutoTokenizer.from_pretrained(CHECKPOINT).encode(text_of(whole), add_special_tokens=False)

    def told(**options) -> list[str]:
        completion = client.chat.completions.create(
            messages=messages(FIND, context), logprobs=True, **OPTIONS | options
        )
        return [entry.token for entry in completion.choices[0].logprobs.content]

    usual = told()
    assert told(logit_bias={str(first): -100})[0] != usual[0]
    assert told(logit_bias={str(second): 100}, max_tokens=1) == [usual[1]]


def test_a_bias_of_a_token_that_is_not_there_is_refused(client, context):
    with pytest.raises(openai.BadRequestError, match="0 to 1871") as caught:
        client.chat.completions.create(messages=messages(FIND, context), logit_bias={"1872": 1}, **OPTIONS)
    assert caught.value.param == "logit_bias.1872"
