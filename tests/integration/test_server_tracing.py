"""A server's process sends its traces and metrics to a collector, whatever its clients do."""

from collections.abc import Iterator

import pytest

from ..support.otlp_receiver import OtlpReceiver, Span
from ..support.pictures import find_question, messages, picture_url
from ..support.server_process import MODEL, LookonceServer

SEED = 101


class TracedServer(LookonceServer):
    """It sends every 50 milliseconds."""

    variables = LookonceServer.variables | {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "50"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server(receiver: OtlpReceiver) -> Iterator[LookonceServer]:
    with TracedServer("--otlp-endpoint", receiver.url) as server:
        yield server


def ask(client, **options):
    return client.chat.completions.create(
        model=MODEL, messages=messages(find_question(SEED), picture_url(SEED)), **{"max_tokens": 24} | options
    )


def of(cache: str):
    """Whether a span is a question's with that outcome of the lookup, with all that was done behind it."""

    def found(span: Span) -> bool:
        is_whole = cache == "hit" or "store context" in span.child_names
        return span.attributes.get("lookonce.cache") == cache and is_whole

    return found


def test_a_miss_a_hit_and_a_client_that_leaves(server, receiver):
    with server.openai() as client:
        ask(client)
        miss = receiver.wait_for(of("miss"))
        server.wait_for("describes_total", 1, result="done")
        ask(client, stream=False)
        hit = receiver.wait_for(of("hit"))
        with ask(client, stream=True, n=8, max_tokens=1000, logit_bias={"2": -100}) as stream:  # without its end
            next(chunk for chunk in stream if chunk.choices[0].delta.content)
        left = receiver.wait_for(lambda span: span.attributes.get("http.response.status_code") == 499)
    assert miss.name == hit.name == f"chat {MODEL}"
    assert {"look up context", "decode image", "first token", "describe image"} <= set(miss.child_names)
    assert hit.child_names == ["look up context", "queue", "load context", "first token", "decode answer"]
    assert left.attributes["error.type"] == "client_disconnected"
    assert left.attributes["gen_ai.request.stream"] is True
    assert not left.failed
    passes = [child.attributes for child in left.children if child.name == "decode answer"]
    assert {"error.type": "cancelled"} in passes
    for span in (*miss.walk(), *hit.walk(), *left.walk()):
        assert span.start <= span.end
    assert not any("error.type" in span.attributes for span in (*miss.walk(), *hit.walk()))
    print("\n".join(["A miss:", *miss.lines(), "A hit:", *hit.lines()]))  # noqa: T201 - as docs/tracing.md has them
