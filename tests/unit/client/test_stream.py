"""Answers and descriptions, piece by piece."""

import json

import pytest

from lookonce import APIResponseError, ContextNotFoundError, OverloadedError, ServerError

from .contract_server import CONTEXT


def test_the_pieces_come_in_order_and_make_the_answer(server, client, png, context_id):
    image = client.image(png)
    stream = image.stream("what?", max_tokens=5)
    assert list(stream) == ["dark ", "rød"]
    assert (stream.answer.text, stream.answer.hit, stream.answer.prompt_tokens) == ("dark rød", False, 90)
    assert image.context_id == context_id
    assert server.requests[-1][2]["stream_options"] == {"include_usage": True}


def test_leaving_early_releases_the_connection_and_keeps_the_context(client, png, context_id):
    image = client.image(png)
    with image.stream("what?") as stream:
        assert next(stream) == "dark "
        with pytest.raises(RuntimeError, match="not complete"):
            _ = stream.answer
    assert list(stream) == []
    assert image.context_id == context_id


def test_a_lost_context_is_replaced_by_the_pixels(server, client, png):
    image = client.image(png)
    image.prepare()
    server.contexts.clear()
    assert "".join(image.stream("what?")) == "dark rød"
    assert [url[:9] for url in server.image_urls()] == ["lookonce:", "data:imag"]


def test_a_lost_context_without_pixels_is_an_error(client, context_id):
    with pytest.raises(ContextNotFoundError):
        list(client.image(f"lookonce:{context_id}").stream("what?"))


def test_an_error_inside_the_stream_is_raised(server, client, png):
    server.stream_events = [json.dumps({"error": {"message": "out of memory", "type": "server_error"}})]
    with pytest.raises(ServerError, match="out of memory"):
        list(client.image(png).stream("what?"))


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (['{"choices": []}'], "ended before it was complete"),
        (["not json"], "not a piece of a stream"),
        (["[]"], "not a piece of a stream"),
        (['{"error": "?"}'], "not a piece of a stream"),
        (["[DONE]"], "not a streamed answer"),
    ],
)
def test_a_broken_stream_is_not_an_answer(server, client, png, events, message):
    server.stream_events = events
    with pytest.raises(APIResponseError, match=message):
        list(client.image(png).stream("what?"))


def test_nothing_is_asked_before_the_first_piece(server, client, png):
    with client.image(png).stream("what?"):
        assert server.requests == []


def test_what_is_no_stream_is_refused(server, connect, png):
    server.refuse = 200, b"{}"
    with pytest.raises(APIResponseError, match="not a stream of events"):
        list(connect(model="m").image(png).stream("what?"))


def test_a_description_appears_as_it_is_generated(server, client, png, context_id):
    server.held = True
    image = client.image(png)
    with image.describe() as description:
        assert description.state == "waiting"
        assert next(description) == "a red "
        assert description.state == "describing"
        with pytest.raises(RuntimeError, match="not complete"):
            _ = description.context
        server.go_on.set()
        assert list(description) == ["circle"]
        assert (description.state, description.created, description.context.id) == ("completed", True, context_id)
    assert image.context == description.context
    assert image.ask("what?").hit


def test_a_description_that_was_there_comes_in_one_piece(server, client, png):
    client.create_context(png)
    description = client.image(png).describe()
    assert list(description) == ["a red circle"]
    assert description.created is False
    assert server.bodies("/v1/contexts")[-1]["stream"] is True


def test_the_description_of_a_known_context_needs_no_pixels(server, client, png, context_id):
    image = client.image(png, retention=0.1)
    assert list(image.describe()) == ["a red ", "circle"]
    again = image.describe()
    assert list(again) == ["a red circle"]
    assert (again.created, server.requests[-1][:2]) == (False, ("GET", f"/v1/contexts/{context_id}"))
    server.contexts.clear()
    assert list(image.describe()) == ["a red ", "circle"]
    assert [body["retention"] for body in server.bodies("/v1/contexts")] == [0.1, 0.1]


def test_an_event_of_a_later_version_is_passed_over(server, client, png):
    server.stream_events = [
        json.dumps({"type": "context.surprise"}),
        json.dumps({"type": "context.completed", "context": CONTEXT, "created": False}),
        "[DONE]",
    ]
    assert list(client.image(png).describe()) == ["a red circle"]


def test_an_error_while_describing_is_raised(server, client, png):
    error = {"message": "the queue is full", "type": "rate_limit_error", "code": "overloaded"}
    server.stream_events = [json.dumps({"type": "context.queued"}), json.dumps({"type": "error", "error": error})]
    with pytest.raises(OverloadedError, match="the queue is full") as raised:
        list(client.image(png).describe())
    assert raised.value.request_id == "req-1"


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (['{"type": "context.queued"}'], "ended before it was complete"),
        (["{}"], "not a piece of a stream"),
        (['{"type": "context.completed"}'], "not a piece of a stream"),
        (['{"type": "context.completed", "created": true, "context": {}}'], "not a context"),
        (["[DONE]"], "ended without a context"),
    ],
)
def test_a_broken_description_is_none(server, client, png, events, message):
    server.stream_events = events
    with pytest.raises(APIResponseError, match=message):
        list(client.image(png).describe())
