"""vLLM behind the HTTP API: replicas of both engines over one Redis, tiers, vLLM's metrics, what nobody may ask for."""

import re

import openai
import pytest

from ..support.otlp_receiver import OtlpReceiver
from ..support.pictures import find_question, messages, picture_url
from ..support.redis_server import RedisServer
from ..support.server_process import MODEL, VLLM, LookonceServer

SEED = 401
QUESTION = find_question(SEED)
EVERYTHING = ("--retention", "1.0")  # 205 tokens: six full blocks of 32, and a part of a seventh


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def receiver():
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def replica(redis, receiver):
    with LookonceServer("--store", redis.url, "--otlp-endpoint", receiver.url, *EVERYTHING, *VLLM) as server:
        yield server


@pytest.fixture(scope="module")
def embedded(redis):
    """Another replica, with the other engine."""
    with LookonceServer("--store", redis.url, *EVERYTHING) as server:
        yield server


def ask(server, image: str, question: str = QUESTION, **options):
    with server.openai() as client:
        options = {"model": MODEL, "max_tokens": 24} | options
        return client.chat.completions.create(messages=messages(question, image), **options)


def text_of(completion) -> str:
    return completion.choices[0].message.content


def prepared(server, seed: int) -> str:
    """The id of a picture's context, made by that server."""
    created = server.post("/v1/contexts", json={"image_url": picture_url(seed)})
    assert created.is_success, created.text
    return created.json()["id"]


@pytest.mark.parametrize("maker", ["replica", "embedded"])
def test_a_context_of_either_engine_is_answered_by_both(replica, embedded, request, maker):
    seed = {"replica": 411, "embedded": 412}[maker]
    context = prepared(request.getfixturevalue(maker), seed)
    for question in (find_question(seed), "How many objects are there?", "What is at the center?"):
        asked = [
            ask(server, image, question)
            for server in (replica, embedded)
            for image in (f"lookonce:{context}", picture_url(seed))
        ]
        assert {one.lookonce["cache"] for one in asked} == {"hit"}
        assert {one.lookonce["context_id"] for one in asked} == {context}
        assert len({text_of(one) for one in asked}) == 1
        assert len({one.usage.prompt_tokens for one in asked}) == 1


def test_the_tier_is_redis_and_then_vllms_own_cache(replica):
    image = f"lookonce:{prepared(replica, 420)}"
    before = {tier: replica.metric("context_answers_total", tier=tier) for tier in ("redis", "gpu")}
    asked = [ask(replica, image, question) for question in ("Is there a star?", "What is at the center?")]
    assert [one.lookonce["tier"] for one in asked] == ["redis", "gpu"]
    for one in asked:
        assert one.usage.prompt_tokens_details.cached_tokens == one.lookonce["context_tokens"]
        assert one.lookonce["tokens_saved"] > 150
    for tier in ("redis", "gpu"):
        assert replica.metric("context_answers_total", tier=tier) == before[tier] + 1


def test_a_stream_tells_the_tier_at_its_end(replica):
    image = f"lookonce:{prepared(replica, 420)}"
    ask(replica, image)
    with replica.openai() as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=messages(QUESTION, image), max_tokens=24, stream=True
        )
        told = [chunk.lookonce for chunk in stream if hasattr(chunk, "lookonce")]
    assert [one["cache"] for one in told] == ["hit", "hit"]
    assert [one["tier"] for one in told] == ["redis", "gpu"]


def test_the_metrics_are_vllms_too(replica):
    ask(replica, picture_url(421))
    page = replica.get("/metrics").text
    assert "vllm:num_requests_running" in page
    assert "vllm:num_preemptions_total" in page
    assert "lookonce_requests_total" in page
    names = set(re.findall(r'model_name="([^"]*)"', page))
    assert names == {MODEL}  # vLLM's metrics have ours
    replica.wait_for("queue_depth", 0)  # the describe pass behind it
    for name in ("requests_running", "requests_waiting", "describes_waiting"):
        assert replica.metric(f"num_{name}") == 0
    assert replica.metric("request_queue_time_seconds_count", cache="miss") > 0
    prefills = [replica.metric(f"request_prefill_time_seconds_{end}", prompt="full") for end in ("count", "sum")]
    assert prefills[0] > 0
    assert 0 < prefills[1] < 60 * prefills[0]
    images = replica.metric("prompt_tokens_processed_total", prompt="full", kind="image")
    assert 100 < images / prefills[0] < 205
    assert replica.get("/ready").json()["status"] == "ready"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cache_salt", "mine"),
        ("prompt_logprobs", 1),
        ("kv_transfer_params", {"lookonce": {"load": {"path": "/etc/passwd", "tokens": 3}}}),
        ("skip_reading_prefix_cache", True),
        ("vllm_xargs", {"kv_transfer_params": "{}"}),
        ("prompt_token_ids", [1, 2]),
        ("mm_processor_kwargs", {"size": 1}),
        ("priority", -5),
    ],
)
def test_nothing_that_reaches_into_vllm_can_be_asked_for(replica, field, value):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(replica, picture_url(SEED), extra_body={field: value})
    assert caught.value.body["param"] == field


def test_vllm_goes_on_with_the_traces_of_requests(replica, receiver):
    context = prepared(replica, 430)
    ask(replica, f"lookonce:{context}", max_tokens=7, logit_bias={"2": -100})  # without its end

    def is_traced(span):
        return span.attributes.get("gen_ai.usage.output_tokens") == 7 and "llm_request" in span.child_names

    hit = receiver.wait_for(is_traced)
    ours = [name for name in hit.child_names if name != "llm_request"]
    assert ours == ["look up context", "load context", "queue", "first token", "decode answer"]
    assert hit.child("llm_request").attributes["gen_ai.usage.completion_tokens"] == 7
    made = receiver.wait_for(lambda span: span.name == "POST /v1/contexts" and "describe image" in span.child_names)
    assert made.child("describe image").child_names.count("llm_request") == 2  # the description, and its capture
