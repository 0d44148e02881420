"""Making contexts over HTTP with either engine: events as they happen, and clients that leave."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from ..support.http_requests import ask
from ..support.pictures import picture_url, png
from ..support.server_process import LookonceServer


@pytest.fixture
def http(server: LookonceServer) -> Iterator[httpx2.Client]:
    with server.http() as client:
        yield client


def events(reply: httpx2.Response) -> Iterator[Any]:
    """The events of a stream, as they come."""
    assert reply.status_code == 200
    for line in reply.iter_lines():
        if line:
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def streamed(http: httpx2.Client, seed: int, **fields: Any):
    body = {"image_url": picture_url(seed), "stream": True, **fields}
    return http.stream("POST", "/v1/contexts", json=body)


def test_a_context_is_told_of_while_it_is_made(http, server):
    with streamed(http, 600) as reply:
        first, second, *deltas, completed, done = events(reply)
    assert (first["type"], second["type"], done) == ("context.queued", "context.describing", "[DONE]")
    assert len(deltas) > 3
    assert "".join(one["delta"] for one in deltas) == completed["context"]["description"]
    with streamed(http, 600) as reply:
        assert [one["type"] for one in list(events(reply))[:-1]] == ["context.queued", "context.completed"]
    assert ask(server, picture_url(600)).cache == "hit"


def test_a_client_that_leaves_takes_no_pass_along(http, server):
    with streamed(http, 601) as leaving:
        seen = events(leaving)
        assert [next(seen)["type"] for _ in range(3)][-1] == "context.description.delta"
    found = ask(server, picture_url(601))
    assert found.cache == "hit"


def test_one_who_joins_is_told_the_whole_description(http, server):
    made = server.metric("describes_total", result="done")
    with streamed(http, 602) as first:
        early = events(first)
        assert [next(early)["type"] for _ in range(3)][-1] == "context.description.delta"
        with server.http() as other, streamed(other, 602) as second:
            *deltas, completed, _ = list(events(second))[1:]
    said = "".join(one.get("delta", "") for one in deltas)
    assert said in ("", completed["context"]["description"])  # nothing, where the pass had ended by then
    assert server.metric("describes_total", result="done") == made + 1


def test_wishes_over_http_are_met(http, server):
    wishes = {"retention": 0.2, "describe_prompt": "What is in the picture?"}
    form = http.post("/v1/contexts", files={"image": ("a.png", png(603))}, data={**wishes, "ttl": "60"})
    context = form.raise_for_status().json()
    assert (context["retention"], context["kept_tokens"]) == (0.2, 40)
    assert context["expires_at"] - context["created_at"] <= 61
    found = ask(server, picture_url(603), lookonce=wishes)
    assert (found.cache, found.context_id) == ("hit", context["id"])
    named = ask(server, f"lookonce:{context['id']}")
    assert (named.cache, named.text) == ("hit", found.text)
    assert ask(server, picture_url(603)).context_id != context["id"]
    bypass = ask(server, picture_url(603), lookonce={"cache": "bypass"})
    assert (bypass.cache, bypass.context_id) == ("bypass", None)


def test_what_is_kept_is_drawn_over_the_picture(http):
    context = http.post("/v1/contexts", json={"image_url": picture_url(604)}).json()
    tokens = http.get(f"/v1/contexts/{context['id']}/tokens").json()
    assert len(tokens["kept"]) == context["kept_tokens"]
    drawn = http.post(f"/v1/contexts/{context['id']}/heatmap.png", files={"image": ("a.png", png(604))})
    assert drawn.headers["content-type"] == "image/png"
