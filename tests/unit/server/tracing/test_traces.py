"""Traces and metrics of requests, as a real collector gets them from the real exporter."""

import asyncio
import logging
import secrets
import subprocess
import sys
from contextlib import asynccontextmanager
from itertools import pairwise

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookonce_server.app import running_app
from lookonce_server.auth.tenants import TenantDirectory, key_hash, new_key
from lookonce_server.errors import StartError
from lookonce_server.settings import Settings
from lookonce_server.tracing.otlp import Telemetry

from ....support.app_requests import URL, body, image, user
from ....support.otlp_receiver import OtlpReceiver

pytestmark = pytest.mark.anyio
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
PASS = ["queue", "first token", "decode answer"]
SERVER = 2  # of OTLP's kinds of spans
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def receiver():
    with OtlpReceiver() as receiver:
        yield receiver


@asynccontextmanager
async def telemetry_to(receiver: OtlpReceiver):
    telemetry = Telemetry(f"{receiver.url}/v1/traces", f"{receiver.url}/v1/metrics", "m")
    try:
        yield telemetry
    finally:
        await telemetry.close()


@pytest.fixture
async def telemetry(receiver):
    async with telemetry_to(receiver) as telemetry:
        yield telemetry


@pytest.fixture
async def client(app_with, telemetry):
    transport = httpx2.ASGITransport(app_with(telemetry=telemetry), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
        yield client


@pytest.fixture
def sent(receiver, telemetry, bench):
    """A function that returns the requests' spans, once all work is done and sent."""

    async def sent():
        while bench.contexts.describe_queue.is_busy:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.to_thread(telemetry.flush)
        return receiver.traces()

    return sent


async def test_a_miss_then_a_hit_then_a_question_by_the_contexts_id(client, sent, bench):
    question = body(messages=[user("What?", image())])
    first = await client.post(CHAT, json=question)
    (miss,) = await sent()
    second = await client.post(CHAT, json=question)
    by_id = f"lookonce:{first.json()['lookonce']['context_id']}"
    await client.post(CHAT, json=body(messages=[user("What?", image(by_id))]))
    _, hit, named = await sent()

    assert miss.child_names[:2] == ["look up context", "decode image"]
    assert [name for name in miss.child_names if name in (*PASS, "prepare prompt")] == [
        "queue",
        "prepare prompt",
        *PASS[1:],
    ]
    assert miss.child("describe image").child_names == ["queue", "run"]
    assert miss.child("store context").start >= miss.child("describe image").end
    assert miss.child("look up context").attributes == {"lookonce.result": "miss", "lookonce.tier": "memory"}
    for trace in (hit, named):
        assert trace.child_names == ["look up context", "queue", "load context", "first token", "decode answer"]
        assert trace.child("look up context").attributes == {"lookonce.result": "hit", "lookonce.tier": "memory"}
    usage = second.json()["usage"]
    assert hit.name == "chat m"
    assert hit.kind == SERVER
    assert (
        hit.attributes.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "lookonce",
            "gen_ai.request.model": "m",
            "gen_ai.response.model": "m",
            "gen_ai.request.stream": False,
            "gen_ai.response.finish_reasons": [second.json()["choices"][0]["finish_reason"]],
            "gen_ai.usage.input_tokens": usage["prompt_tokens"],
            "gen_ai.usage.cache_read.input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
            "gen_ai.usage.output_tokens": usage["completion_tokens"],
            "http.response.status_code": 200,
            "http.route": CHAT,
            "lookonce.cache": "hit",
            "lookonce.saved_tokens": second.json()["lookonce"]["tokens_saved"],
        }.items()
    )
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0
    assert 0 < hit.attributes["lookonce.time_to_first_token"] <= (hit.end - hit.start) / 1e9
    assert "gen_ai.response.time_to_first_chunk" not in hit.attributes
    assert hit.resource["service.name"] == "lookonce"
    assert not any("error.type" in span.attributes for span in (*miss.walk(), *hit.walk(), *named.walk()))
    # The phases of a pass follow one another without a gap, within the request.
    phases = hit.children[1:]
    assert all(before.end == after.start for before, after in pairwise(phases))
    assert hit.start <= phases[0].start
    assert phases[-1].end <= hit.end


async def test_a_stream_and_a_response_are_chats_too(client, sent):
    await client.post(CHAT, json=body(stream=True))
    await client.post(RESPONSES, json={"model": "m", "input": "Hi", "max_output_tokens": 16})
    stream, response = await sent()
    assert stream.name == response.name == "chat m"
    assert stream.attributes["gen_ai.request.stream"] is True
    assert 0 < stream.attributes["gen_ai.response.time_to_first_chunk"] <= (stream.end - stream.start) / 1e9
    assert stream.child_names == ["queue", "prepare prompt", "first token", "decode answer"]
    assert response.attributes["http.route"] == RESPONSES
    assert response.attributes["gen_ai.request.stream"] is False


async def test_the_clients_trace_goes_on_and_the_log_names_it(client, sent, caplog):
    with caplog.at_level(logging.INFO, "lookonce_server"):
        await client.post(CHAT, json=body(), headers={"traceparent": PARENT})
        await client.get("/v1/models", headers={"traceparent": PARENT.replace("-01", "-00")})
    (trace,) = await sent()  # the client of the other one does not sample it
    _, trace_id, parent, _ = PARENT.split("-")
    assert (trace.trace, trace.parent) == (trace_id, parent)
    assert {child.trace for child in trace.children} == {trace_id}
    (facts, _) = (record.facts for record in caplog.records if hasattr(record, "facts"))
    assert facts.trace_id == trace_id


async def test_other_requests_are_named_by_their_routes_and_probes_have_no_trace(client, sent):
    for path in ("/health", "/ready", "/metrics", "/", "/v1/contexts/" + "0" * 64, "/v1/nothing"):
        await client.get(path)
    context, nothing = await sent()
    assert (context.name, nothing.name) == ("GET /v1/contexts/{context_id}", "GET")
    assert context.attributes["error.type"] == "context_not_found"
    assert nothing.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 404,
        "error.type": "404",
    }


async def test_refused_requests_say_why(client, sent):
    await client.post(CHAT, json=body(model="another"))
    await client.post(CHAT, json=body(messages=[user("What?", image("data:image/png;base64,AAAA"))]))
    await client.post(CHAT, json=body(), headers={"origin": "https://elsewhere.example"})
    model, picture, origin = await sent()
    assert [trace.attributes["error.type"] for trace in (model, picture, origin)] == [
        "model_not_found",
        "invalid_image",
        "origin_not_allowed",
    ]
    assert [trace.name for trace in (model, picture, origin)] == ["chat", "chat m", "chat"]
    assert not any(trace.failed for trace in (model, picture, origin))  # the server did not
    decode = picture.child("decode image")
    assert decode.failed
    assert decode.attributes == {"error.type": "InvalidImageError"}


async def test_a_fault_of_the_server_is_one_in_the_trace_without_its_text(client, sent, receiver, failing):
    assert (await client.post(CHAT, json=body(n=3, max_tokens=20, logit_bias={"2": -100}))).status_code == 500
    (trace,) = await sent()
    assert trace.failed
    assert trace.attributes["error.type"] == "engine_error"
    (faulty,) = [child for child in trace.children if child.failed]
    assert (faulty.name, faulty.attributes) == ("decode answer", {"error.type": "EngineError"})
    assert not any(b"a secret" in data for _, data in receiver.bodies)


async def test_metrics_have_the_conventions_names_and_labels(client, sent, receiver):
    question = body(messages=[user("What?", image())], max_tokens=8)
    await client.post(CHAT, json=question)
    await sent()
    await client.post(CHAT, json=question)
    await client.post(CHAT, json=body(model="another"))
    await sent()
    labels = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "lookonce",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m",
    }
    counts = {
        name: {
            frozenset((pair.key, pair.value.string_value) for pair in point.attributes): point.count for point in points
        }
        for name, points in receiver.metrics().items()
    }
    hit, miss = (frozenset((labels | {"lookonce.cache": cache}).items()) for cache in ("hit", "miss"))
    refused = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "lookonce",
        "error.type": "model_not_found",
        "lookonce.cache": "none",
    }
    assert counts == {
        "gen_ai.server.request.duration": {hit: 1, miss: 1, frozenset(refused.items()): 1},
        "gen_ai.server.time_to_first_token": {hit: 1, miss: 1},
        "gen_ai.server.time_per_output_token": {hit: 1, miss: 1},
    }


WORDS = st.text(st.characters(min_codepoint=0x61, max_codepoint=0x7A), min_size=12, max_size=20)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=WORDS, wrong_model=WORDS, path=WORDS, header=WORDS, tenant=WORDS)
async def test_nothing_that_a_client_sent_is_in_any_byte(app_with, prompt, wrong_model, path, header, tenant):
    """Questions, answers, descriptions, keys, tenants, ids and paths: of hits, misses, refusals and errors."""
    key, wrong_key = new_key(), f"lo-{secrets.token_hex(16)}"

    async def ask() -> tuple[list[bytes], list[str]]:
        with OtlpReceiver() as receiver:
            async with telemetry_to(receiver) as telemetry:
                app = app_with(access=TenantDirectory({key_hash(key): tenant}), telemetry=telemetry)
                transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
                headers = {"authorization": f"Bearer {key}", "x-request-id": header, "user-agent": header}
                headers |= {"baggage": f"a={header}"}
                http = httpx2.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)
                async with http as client:
                    question = body(messages=[user(prompt, image())], max_tokens=8, user=prompt, stop=[prompt])
                    miss = (await client.post(CHAT, json=question)).json()
                    context = miss["lookonce"]["context_id"]
                    made = (await client.post("/v1/contexts", json={"image_url": URL})).json()
                    await client.post(CHAT, json=question | {"stream": True})
                    await client.post(CHAT, json=body(model=wrong_model))
                    await client.post(CHAT, json=body(messages=[user(prompt, image(f"lookonce:{path}"))]))
                    await client.post(CHAT, json=question, headers={"authorization": f"Bearer {wrong_key}"})
                    await client.post(CHAT, json=question | {prompt: 1})
                    await client.get(f"/v1/contexts/{context}", params={path: path})
                    await client.get(f"/v1/{path}")
                    await client.request(path.upper(), "/v1/models")
            answer = miss["choices"][0]["message"]["content"]
            secret = [prompt, wrong_model, path, path.upper(), header, tenant, key, wrong_key, key_hash(key), context]
            return [data for _, data in receiver.bodies], [*secret, answer, made["description"], URL[30:60]]

    sent, secret = await ask()
    spans = b"".join(sent)
    assert b"gen_ai.usage.input_tokens" in spans
    # A short answer, such as "none", is a label's value too.
    assert [text for text in secret if len(text) > 4 and text.encode() in spans] == []


async def test_a_collector_that_fails_costs_one_line_and_no_request(client, sent, receiver, caplog):
    receiver.status = 400
    for _ in range(3):
        assert (await client.post(CHAT, json=body())).status_code == 200
        await sent()
    (line,) = [record for record in caplog.records if "could not be sent" in record.getMessage()]
    assert line.levelname == "WARNING"
    assert len(receiver.bodies) >= 6
    assert not logging.getLogger("opentelemetry").propagate  # its own lines do not reach the log


async def test_the_environment_decides_on_sampling_and_names(app_with, receiver, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "of-ours")
    async with telemetry_to(receiver) as telemetry:
        transport = httpx2.ASGITransport(app_with(telemetry=telemetry))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.post(CHAT, json=body())).status_code == 200
    assert receiver.traces() == []
    assert "gen_ai.server.request.duration" in receiver.metrics()
    assert b"of-ours" in receiver.bodies[-1][1]


async def test_a_missing_package_is_told_in_one_sentence_with_what_mends_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lookonce_server.tracing.otlp", None)
    with pytest.raises(StartError, match=r"^--otlp-endpoint needs .*: pip install 'lookonce\[otel\]' \(.*\)\.$"):
        async with running_app(Settings(otlp_endpoint="http://localhost:4318")):
            pass


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported():
    """Every module that marks a part of a request; the app's others hold to a contract of import-linter."""
    modules = ["tracing.spans", "http.middleware.trace", "http.middleware.request_log", "logs", "metrics"]
    imports = "; ".join(f"import lookonce_server.{name}" for name in modules)
    command = [sys.executable, "-c", f"{imports}; import sys; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "lookonce_server.tracing.spans" in done.stdout.split()
    assert [name for name in done.stdout.split() if name.startswith("opentelemetry")] == []
