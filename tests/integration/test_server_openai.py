"""The server as OpenAI's own client sees it: a picture once, questions by its context, every refusal by name."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from lookonce_scenes import CHECKPOINT
from lookonce_server.check import check_checkpoint

from ..support.pictures import data_url, find_question, messages, picture_url, png, questions
from ..support.server_process import MODEL, LookonceServer

RIGHT_ANSWERS = 0.8  # share of the open questions about held-out scenes that the bundled model must get right
SEEDS = (101, 102, 103)
QUESTIONS = 10
FIND = find_question(SEEDS[0])


def ask(client: openai.OpenAI, question: str, image: str | None, **options):
    options = {"model": MODEL, "max_tokens": 24} | options
    return client.chat.completions.create(messages=messages(question, image), **options)


def text_of(completion) -> str:
    return completion.choices[0].message.content


def is_right(text: str, answer: str) -> bool:
    return text.strip().rstrip(".").lower() == answer.lower()


def refused(kind: type[openai.APIStatusError], client: openai.OpenAI, question="Hi", image=None, **options):
    """The error object that OpenAI's client raises."""
    with pytest.raises(kind) as caught:
        ask(client, question, image, **options)
    assert type(caught.value) is kind
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    return caught.value


# --- look once --------------------------------------------------------------------------------------------------------


def look_once(server: LookonceServer, client: openai.OpenAI) -> list[tuple[str, str]]:
    """Each picture once with its pixels, then ten questions, five of them by its context's id; answers and truths."""
    answers = []
    described = server.metric("describes_total", result="done")
    for seed in SEEDS:
        first, *later = questions(seed, QUESTIONS + 1)
        completion = ask(client, first.text, picture_url(seed))
        assert completion.lookonce["cache"] == "miss"
        assert completion.usage.prompt_tokens_details.cached_tokens == 0
        context = completion.lookonce["context_id"]
        answers.append((text_of(completion), first.answer))
        described += 1
        server.wait_for("describes_total", described, result="done")
        for i, question in enumerate(later):
            image = picture_url(seed) if i < QUESTIONS / 2 else f"lookonce:{context}"
            completion = ask(client, question.text, image)
            assert_hit(completion, context)
            answers.append((text_of(completion), question.answer))
    return answers


def assert_hit(completion, context: str) -> None:
    found, usage = completion.lookonce, completion.usage
    assert (found["cache"], found["context_id"]) == ("hit", context)
    assert usage.prompt_tokens_details.cached_tokens == found["context_tokens"] > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens < found["image_tokens"] < found["tokens_saved"] + usage.prompt_tokens


def assert_right(answers: list[tuple[str, str]]) -> None:
    wrong = [pair for pair in answers if not is_right(*pair)]
    assert len(wrong) <= (1 - RIGHT_ANSWERS) * len(answers), f"{len(wrong)} of {len(answers)} are wrong: {wrong}"


def test_a_picture_once_and_ten_questions_over_redis_restarts_and_losses(redis_server):
    with LookonceServer("--store", redis_server.url) as server:
        with server.openai() as client:
            answers = look_once(server, client)
        assert_right(answers)
        assert server.metric("context_lookups_total", result="hit", tier="redis") == QUESTIONS * len(SEEDS)

        server.restart()
        with server.openai() as client:
            again = [
                text_of(ask(client, question.text, picture_url(seed)))
                for seed in SEEDS
                for question in questions(seed, QUESTIONS + 1)[1:]
            ]
            assert server.metric("context_lookups_total", result="miss") == 0
            assert server.metric("describes_total") == 0
            # An answer from a context is the same whichever server made the context.
            later = [text for i, (text, _) in enumerate(answers) if i % (QUESTIONS + 1)]
            assert again == later

            redis_server.flush()
            assert look_once(server, client) == answers

            redis_server.kill()
            ready = server.get("/ready")
            assert (ready.status_code, ready.json()["store_state"]) == (200, "unavailable")
            assert server.get("/health").status_code == 200
            seed = SEEDS[0]
            first = questions(seed, 1)[0]
            completion = ask(client, first.text, picture_url(seed))
            assert (completion.lookonce["cache"], text_of(completion)) == ("miss", answers[0][0])
            with pytest.raises(openai.InternalServerError) as caught:
                ask(client, first.text, f"lookonce:{completion.lookonce['context_id']}")
            assert (caught.value.status_code, caught.value.code) == (503, "store_unavailable")

            redis_server.start()
            assert server.get("/ready").json()["store_state"] == "ok"


# --- what a chat can ask for ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(server, client) -> str:
    """The URL of a context that the server keeps."""
    made = server.post("/v1/contexts", json={"image_url": picture_url(SEEDS[0])})
    assert made.status_code == 200, made.text
    return f"lookonce:{made.json()['id']}"


@pytest.mark.parametrize("pixels", [True, False])
def test_a_stream_is_the_same_answer_piece_by_piece(client, context, pixels):
    question = find_question(104) if pixels else FIND
    image = picture_url(104) if pixels else context
    whole = ask(client, question, image)
    first, *chunks = ask(client, question, image, stream=True, stream_options={"include_usage": True})
    *chunks, last = chunks
    assert first.choices[0].delta.role == "assistant"
    assert first.lookonce["context_id"] == whole.lookonce["context_id"]
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert "".join(pieces) == text_of(whole)
    assert len(pieces) > 1
    assert [c.choices[0].finish_reason for c in chunks][-1] == whole.choices[0].finish_reason
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in [first, *chunks, last]}) == 1


def test_a_stream_without_usage_has_none(client, context):
    assert all(chunk.usage is None for chunk in ask(client, FIND, context, stream=True))


def test_stop_texts_end_the_answer_before_them(client, context):
    whole = text_of(ask(client, FIND, context))
    stop = whole[2:5]
    for options in ({"stop": stop}, {"stop": ["never said", stop]}):
        completion = ask(client, FIND, context, **options)
        assert text_of(completion) == whole[: whole.index(stop)]
        assert completion.choices[0].finish_reason == "stop"
    pieces = [c.choices[0].delta.content or "" for c in ask(client, FIND, context, stop=stop, stream=True) if c.choices]
    assert "".join(pieces) == whole[: whole.index(stop)]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_shorten_the_answer(client, context, name):
    whole = text_of(ask(client, FIND, context))
    completion = ask(client, FIND, context, **{"max_tokens": openai.omit, name: 2})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 2
    assert whole.startswith(text_of(completion))


def test_a_seed_repeats_an_answer_and_temperature_varies_it(client, context):
    def sampled(seed: int) -> str:
        return text_of(ask(client, FIND, context, temperature=2.0, top_p=0.99, seed=seed))

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(6)}) > 1
    greedy = {text_of(ask(client, FIND, context, temperature=0, seed=seed)) for seed in range(2)}
    assert greedy == {text_of(ask(client, FIND, context))}


def test_a_question_without_an_image_is_answered(client):
    completion = ask(client, "Hello", None)
    assert completion.lookonce == {
        "cache": "none",
        "tier": None,
        "context_id": None,
        "context_tokens": 0,
        "image_tokens": 0,
        "tokens_saved": 0,
        "images": [],
    }
    assert completion.usage.prompt_tokens_details.cached_tokens == 0


def test_a_conversation_goes_on(client, context):
    chat = [
        {"role": "system", "content": "You are a helpful assistant."},
        *messages("What do you see?", context),
        {"role": "assistant", "content": "a red circle"},
        {"role": "user", "content": [{"type": "text", "text": "What size is it?"}]},
    ]
    completion = client.chat.completions.create(model=MODEL, messages=chat, max_tokens=8, user="me", n=1)
    assert completion.lookonce["cache"] == "hit"
    assert text_of(completion)


def test_headers_tell_the_lookup(client, context):
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages("Hi", context), max_tokens=2)
    assert raw.headers["x-lookonce-cache"] == "hit"
    assert f"lookonce:{raw.headers['x-lookonce-context']}" == context


def test_on_miss_compress_answers_a_new_image_from_its_context(client):
    completion = ask(client, FIND, picture_url(105), extra_body={"lookonce": {"on_miss": "compress"}})
    assert completion.lookonce["cache"] == "miss"
    assert completion.lookonce["context_tokens"] > 0
    assert completion.usage.prompt_tokens_details.cached_tokens == completion.lookonce["context_tokens"]
    again = ask(client, FIND, picture_url(105))
    assert again.lookonce["cache"] == "hit"
    assert text_of(again) == text_of(completion)


def test_the_model_is_described_as_lookonce_check_describes_it(server, client, engine_arguments):
    """And a real context has the tokens and the bytes that both tell."""
    sizes = client.models.retrieve(MODEL).lookonce["model"]
    assert [model.lookonce["model"] for model in client.models.list()] == [sizes]
    report = check_checkpoint(str(CHECKPOINT), describe_prompt="Describe the image.")
    summary = report.summary
    assert sizes["engine"] == ("vllm" if "vllm" in engine_arguments else "transformers")
    assert (sizes["architecture"], sizes["family"], sizes["video"]) == (*summary[:2], summary.video)
    assert sizes["image_tokens"] == [
        {"width": w, "height": h, "tokens": tokens} for (w, h), tokens in summary.image_tokens.items()
    ]
    assert sizes["several_images"] == {"from_contexts": report.unjoinable is None, "reason": report.unjoinable}
    # This server computes in float32, which the check, which loads no weights, does not know.
    assert sizes["dtype"] == "float32"
    for size, checked in zip(sizes["context_sizes"], summary.context_sizes, strict=True):
        assert (size["retention"], size["stored_tokens"]) == checked[:2]
        assert size["bytes"]["native"] == 2 * checked.bytes["native"]
    made = server.post("/v1/contexts", json={"image_url": picture_url(8088)}).raise_for_status().json()
    (expected,) = [size for size in sizes["context_sizes"] if size["retention"] == made["retention"]]
    assert made["kept_tokens"] + 5 == expected["stored_tokens"]  # five tokens are text
    assert 0 < made["bytes"] - expected["bytes"][made["precision"]] < 4096  # header and description


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


# --- refusals ---------------------------------------------------------------------------------------------------------

PARTS = [{"type": "text", "text": "Hi"}]


REFUSED = [
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"seed": 2**64}, "seed"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": ""}, "stop"),
    ({"logprobs": 3}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
    ({"top_logprobs": -1, "logprobs": True}, "top_logprobs"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"presence_penalty": -2.1}, "presence_penalty"),
    ({"frequency_penalty": 2.1}, "frequency_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"extra_body": {"surprise": 1}}, "surprise"),
    ({"extra_body": {"lookonce": {"on_miss": "maybe"}}}, "lookonce.on_miss"),
    ({"extra_body": {"lookonce": {"salt": "x"}}}, "lookonce.salt"),
    ({"extra_body": {"cache_salt": "x"}}, "cache_salt"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "assistant", "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "function", "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}, *PARTS]}]},
        "messages[0].content[0].image_url.url",
    ),
    ({"messages": messages("Hi", "lookonce:" + "0" * 63)}, "messages[0].content[1].image_url.url"),
    ({"messages": messages("Hi", "lookonce:" + "A" * 64)}, "messages[0].content[1].image_url.url"),
    ({"messages": messages("Hi", "https://example.com/a.png")}, "messages[0].content[1].image_url.url"),
    ({"messages": messages("Hi", "data:image/png;base64,AAAA")}, "messages[0].content[1].image_url.url"),
    ({"messages": messages("Hi", data_url(png(1)[:300]))}, "messages[0].content[1].image_url.url"),
    (
        {"messages": [message for i in range(17) for message in messages("Hi", f"lookonce:{i:064x}")]},
        "messages[16].content[1].image_url.url",
    ),
    (
        {"messages": [messages("Hi", picture_url(1))[0] | {"role": "system"}, *messages("Hi", None)]},
        "messages[0].content[1].type",
    ),
    ({"messages": messages("red " * 5000, None)}, "messages"),
]


def test_what_is_not_honoured_is_refused_by_name(embedded):
    """In OpenAI's own error, and a sentence; each field's values are tested where they are parsed."""
    with embedded.openai() as client:
        for options, param in REFUSED:
            with pytest.raises(openai.BadRequestError) as caught:
                client.chat.completions.create(**{"model": MODEL, "messages": messages("Hi", None)} | options)
            error = caught.value
            assert (error.type, error.param) == ("invalid_request_error", param), (options, error.message)
            assert len(error.body["message"]) < 500, error.message


def test_another_model_is_not_found(client):
    error = refused(openai.NotFoundError, client, model="gpt-4o")
    assert (error.param, error.code) == ("model", "model_not_found")


def test_a_context_that_does_not_exist_is_not_found(client):
    error = refused(openai.NotFoundError, client, image="lookonce:" + "0" * 64)
    assert error.code == "context_not_found"


def test_a_body_that_is_no_json_is_refused(server):
    reply = server.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/nothing", 404), ("GET", "/v1/completions", 404)])
def test_other_routes_are_refused_in_the_same_shape(server, method, path, status):
    reply = server.get(path)
    assert reply.status_code == status
    assert f"{method} {path}" in reply.json()["error"]["message"]


# --- contexts ---------------------------------------------------------------------------------------------------------


def test_contexts_are_made_shown_listed_and_deleted(server, client):
    made = client.post("/contexts", body={"image_url": picture_url(106)}, cast_to=object)
    assert made["object"] == "context"
    assert made["description"].startswith("A")
    assert (made["image_tokens"], made["kept_tokens"], made["retention"]) == (196, 10, 0.05)
    assert made["expires_at"] > made["created_at"]
    path = f"/contexts/{made['id']}"

    def shown() -> dict:
        return client.get(path, cast_to=object)

    assert {k: v for k, v in shown().items() if k != "expires_at"} == {
        k: v for k, v in made.items() if k != "expires_at"
    }
    assert made["id"] in [item["id"] for item in client.get("/contexts", cast_to=object)["data"]]
    described = server.metric("describes_total")
    assert client.post("/contexts", body={"image_url": picture_url(106)}, cast_to=object)["id"] == made["id"]
    assert server.metric("describes_total") == described
    assert ask(client, FIND, picture_url(106)).lookonce["cache"] == "hit"

    assert client.delete(path, cast_to=object) == {"id": made["id"], "object": "context.deleted", "deleted": True}
    for call in (shown, lambda: client.delete(path, cast_to=object)):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.code == "context_not_found"
    assert ask(client, FIND, picture_url(106)).lookonce["cache"] == "miss"


@pytest.mark.parametrize("image", ["lookonce:" + "0" * 64, "https://example.com/a.png", "data:image/png;base64,AAAA"])
def test_a_context_is_made_from_pixels_alone(client, image):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/contexts", body={"image_url": image}, cast_to=object)
    assert caught.value.param == "image_url"


def test_the_list_has_a_limit(server):
    assert len(server.get("/v1/contexts?limit=1").json()["data"]) <= 1
    reply = server.get("/v1/contexts?limit=0")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "limit")


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_server():
    """A server that takes little: small bodies, and few requests at once."""
    with LookonceServer(
        "--max-image-bytes", "30000", "--max-video-bytes", "30000", "--max-queue", "2", "--max-running", "1"
    ) as running:
        yield running


def test_an_image_over_the_limit_is_refused(small_server):
    with small_server.openai() as client:
        error = refused(openai.BadRequestError, client, image=data_url(b"x" * 30_001))
        assert "limit of 30000 bytes" in error.message


@pytest.mark.parametrize("told", [True, False])
def test_a_body_over_the_limit_is_a_413(small_server, told):
    body = b'{"model": "' + b"x" * 3_000_000 + b'"}'
    content = body if told else (body[i : i + 65536] for i in range(0, len(body), 65536))
    reply = small_server.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
    assert small_server.get("/health").status_code == 200


def test_a_full_queue_is_a_429_and_passes(small_server):
    with small_server.openai() as client, ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(ask, client, FIND, None, max_tokens=200) for _ in range(16)]
        errors = [error for error in (one.exception() for one in asked) if error]
        assert 0 < len(errors) < len(asked)
        for error in errors:
            assert type(error) is openai.RateLimitError
            assert (error.code, error.type) == ("overloaded", "rate_limit_error")
            assert error.response.headers["retry-after"] == "1"
        small_server.wait_for("queue_depth", 0)
        assert ask(client, FIND, None).choices[0].finish_reason


def test_a_client_that_leaves_a_stream_frees_the_engine(server, client, context):
    stream = ask(client, FIND, context, stream=True)
    next(iter(stream))
    stream.close()
    server.wait_for("queue_depth", 0)
    assert text_of(ask(client, FIND, context))


def test_clients_that_leave_free_the_engine(server):
    """Prompts of 1900 tokens, more of them at once than are answered before their clients lose patience."""
    gone, all_before = server.metric("requests_total", status="499"), server.metric("requests_total")
    with server.openai(timeout=0.3) as hasty, ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(ask, hasty, f"{i} " + "red " * 1900, None, max_tokens=100) for i in range(24)]
        errors = [error for error in (one.exception() for one in asked) if error]
    assert errors
    assert {type(error) for error in errors} == {openai.APITimeoutError}
    server.wait_for("queue_depth", 0)
    server.wait_for("requests_total", all_before + len(asked))
    assert server.metric("requests_total", status="499") > gone  # an answer may have been whole when its client left
