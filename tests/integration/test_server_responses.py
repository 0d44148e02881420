"""The Responses API as OpenAI's own client speaks it: a picture once, then questions that name the answer before."""

from collections.abc import Iterator

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from lookonce_server.auth.tenants import key_hash, new_key

from ..support.pictures import find_question, picture_url, questions
from ..support.redis_server import RedisServer
from ..support.server_process import MODEL, LookonceServer

pytestmark = pytest.mark.anyio

SEED = 111
FIND = find_question(SEED)
RIGHT_ANSWERS = 0.8  # share of the open questions that the bundled model must get right
RESPONSE, EVENT = TypeAdapter(Response), TypeAdapter(ResponseStreamEvent)


@pytest.fixture
def plain(embedded: LookonceServer) -> Iterator[openai.OpenAI]:
    with embedded.openai() as client:
        yield client


def about(seed: int, text: str) -> list[dict]:
    """Input with a picture."""
    picture = {"type": "input_image", "image_url": picture_url(seed), "detail": "auto"}
    return [{"role": "user", "content": [{"type": "input_text", "text": text}, picture]}]


def create(client: openai.OpenAI, input_, **options) -> Response:
    """A response that is exactly of OpenAI's type."""
    raw = client.responses.with_raw_response.create(
        **{"model": MODEL, "input": input_, "max_output_tokens": 24} | options
    )
    RESPONSE.validate_json(raw.text, strict=True)
    return raw.parse()


def refused(kind: type[openai.APIStatusError], client: openai.OpenAI, **options) -> openai.APIStatusError:
    with pytest.raises(kind) as caught:
        create(client, **{"input_": "Hi"} | options)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    return caught.value


def is_right(response: Response, answer: str) -> bool:
    return response.output_text.strip().rstrip(".").lower() == answer.lower()


def test_a_picture_once_and_then_questions_that_go_on(server):
    """With both engines."""
    with server.openai() as client:
        asked = questions(SEED, 8)
        described = server.metric("describes_total", result="done")
        first = create(client, about(SEED, asked[0].text))
        assert first.lookonce["cache"] == "miss"
        answers = [(first, asked[0].answer)]
        for question in asked[1:]:
            # Each goes on from the first, at once: the describe pass behind it is waited for.
            response = create(client, question.text, previous_response_id=first.id)
            assert (response.lookonce["cache"], response.lookonce["context_id"]) == (
                "hit",
                first.lookonce["context_id"],
            )
            assert response.usage.input_tokens_details.cached_tokens == response.lookonce["context_tokens"] > 0
            assert response.usage.input_tokens < response.lookonce["image_tokens"]
            assert response.previous_response_id == first.id
            answers.append((response, question.answer))
        wrong = [(response.output_text, answer) for response, answer in answers if not is_right(response, answer)]
        assert len(wrong) <= (1 - RIGHT_ANSWERS) * len(answers), wrong
        assert server.metric("describes_total", result="done") == described + 1

        last = create(client, FIND, previous_response_id=answers[-1][0].id)
        with client.responses.stream(
            model=MODEL, input=FIND, previous_response_id=answers[-1][0].id, max_output_tokens=24
        ) as stream:
            for event in stream:
                if event.type == "response.output_text.delta":
                    told = event.snapshot
        final = stream.get_final_response()
        assert told == final.output_text == last.output_text
        assert final.usage.output_tokens == last.usage.output_tokens


def test_the_client_streams_events_of_openais_own_types(plain):
    whole = create(plain, about(SEED, FIND))
    events = list(plain.responses.create(model=MODEL, input=FIND, previous_response_id=whole.id, stream=True))
    for event in events:
        EVENT.validate_json(event.to_json(), strict=True)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text
    assert len(deltas) > 1


async def test_the_async_client(embedded):
    http = openai.DefaultAsyncHttpx2Client(trust_env=False)
    async with openai.AsyncOpenAI(base_url=f"{embedded.url}/v1", api_key="any", http_client=http) as client:
        first = await client.responses.create(model=MODEL, input=about(SEED, FIND))
        second = await client.responses.create(model=MODEL, input=FIND, previous_response_id=first.id)
        async with client.responses.stream(model=MODEL, input=FIND, previous_response_id=first.id) as stream:
            final = await stream.get_final_response()
        assert final.output_text == second.output_text
        assert (await client.responses.retrieve(second.id)).output_text == second.output_text
        await client.responses.delete(second.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(second.id)


def test_answers_may_be_given_back_by_hand(plain):
    first = create(plain, about(SEED, FIND))
    item = {"role": "user", "content": "And?"}
    going_on = create(plain, [item], previous_response_id=first.id)
    again = create(plain, [*about(SEED, FIND), *first.output, item])
    assert (again.output_text, again.usage) == (going_on.output_text, going_on.usage)


def test_every_item_that_was_answered_can_be_listed(plain):
    response = create(plain, "One")
    for text in ("Two", "Three"):
        response = create(plain, text, previous_response_id=response.id)
    listed = list(plain.responses.input_items.list(response.id, limit=2, order="asc"))  # follows the pages
    texts = [item.content[0].text for item in listed]
    assert texts[::2] == ["One", "Two", "Three"]
    assert [item.role for item in listed] == ["user", "assistant", "user", "assistant", "user"]


def test_a_client_that_leaves_frees_its_work(plain, embedded):
    gone = embedded.metric("requests_total", status="499")
    for _ in range(20):  # an answer may have been whole when its client left
        stream = plain.responses.create(model=MODEL, input="Describe the video.", stream=True, max_output_tokens=1024)
        assert next(stream).type == "response.created"
        stream.close()
        embedded.wait_for("queue_depth", 0)
    assert embedded.metric("requests_total", status="499") > gone


def test_what_is_not_supported_is_refused_by_name(plain):
    tool = {"type": "function", "name": "f", "parameters": {}, "strict": True}  # the bundled model cannot choose
    assert refused(openai.BadRequestError, plain, tools=[tool]).param == "tools"
    assert refused(openai.BadRequestError, plain, reasoning={"effort": "low"}).param == "reasoning"
    uploaded = [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1", "detail": "auto"}]}]
    assert refused(openai.NotFoundError, plain, input_=uploaded).param == "input[0].content[0].file_id"
    gone = refused(openai.NotFoundError, plain, previous_response_id=f"resp_{'0' * 64}")
    assert (gone.code, gone.param) == ("previous_response_not_found", "previous_response_id")


# ---- several servers, restarts, tenants


def test_any_replica_goes_on_and_so_does_one_that_was_restarted(redis_server: RedisServer):
    with (
        LookonceServer("--store", redis_server.url) as one,
        LookonceServer("--store", f"{redis_server.url}?hot_bytes=64MiB") as two,
    ):
        with one.openai() as here, two.openai() as there:
            first = create(here, about(SEED, FIND))
            one.wait_for("describes_total", 1, result="done")
            second = create(there, FIND, previous_response_id=first.id)
            third = create(here, FIND, previous_response_id=second.id)
            assert [answer.lookonce["cache"] for answer in (second, third)] == ["hit", "hit"]
            assert two.metric("describes_total") == 0
            expected = create(here, FIND, previous_response_id=third.id)
        two.restart()
        with two.openai() as there:
            again = create(there, FIND, previous_response_id=third.id)
            assert (again.output_text, again.lookonce["cache"]) == (expected.output_text, "hit")
            assert there.responses.retrieve(first.id).output_text == first.output_text

            there.responses.delete(first.id)
            assert refused(openai.NotFoundError, there, previous_response_id=first.id).param == "previous_response_id"
            assert create(there, FIND, previous_response_id=second.id).lookonce["cache"] == "hit"

            redis_server.kill()
            answer = create(there, "Hi")
            assert answer.model_extra["store"] is False
            with pytest.raises(openai.InternalServerError) as caught:
                create(there, "Hi", previous_response_id=third.id)
            assert (caught.value.status_code, caught.value.code) == (503, "store_unavailable")


def test_what_redis_holds_of_a_response_expires_and_has_no_pixels(redis_server: RedisServer):
    with LookonceServer("--store", redis_server.url, "--ttl", "500") as server, server.openai() as client:
        first = create(client, about(SEED, FIND), instructions="Be brief.")
        with redis_server.client() as redis:
            (name,) = redis.keys("lookonce:1:record:*")
            assert name.decode() == f"lookonce:1:record:{{default:{first.id.removeprefix('resp_')}}}"
            value = redis.get(name)
            assert FIND.encode() in value
            assert picture_url(SEED)[30:90].encode() not in value
            assert 400 < redis.ttl(name) <= 500
            redis.expire(name, 50)
            second = create(client, "And?", previous_response_id=first.id, extra_body={"lookonce": {"ttl": 100}})
            assert 400 < redis.ttl(name) <= 500
            assert redis.ttl(f"lookonce:1:record:{{default:{second.id.removeprefix('resp_')}}}") <= 100
            redis.set(name, value[:-1] + b"?")
            assert refused(openai.NotFoundError, client, previous_response_id=first.id).code
        assert FIND not in server.log()
        assert first.id not in server.log()


def test_a_response_is_its_tenants_alone(tmp_path):
    keys = {name: new_key() for name in ("alice", "bob")}
    lines = [f'"{name}" = ["sha256:{key_hash(key)}"]' for name, key in keys.items()]
    (tmp_path / "keys.toml").write_text("\n".join(["[tenants]", *lines]))
    with LookonceServer("--api-keys", str(tmp_path / "keys.toml")) as server:
        alice, bob = (server.openai(api_key=key) for key in keys.values())
        with alice, bob:
            hers = create(alice, about(SEED, FIND))
            for call in (bob.responses.retrieve, bob.responses.delete, bob.responses.input_items.list):
                with pytest.raises(openai.NotFoundError):
                    call(hers.id)
            never = refused(openai.NotFoundError, bob, previous_response_id=f"resp_{'0' * 64}")
            theirs = refused(openai.NotFoundError, bob, previous_response_id=hers.id)
            assert (theirs.code, theirs.param) == (never.code, never.param)
            assert create(alice, FIND, previous_response_id=hers.id).lookonce["cache"] == "hit"
