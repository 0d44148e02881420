"""Answers piece by piece."""

import json

import pytest

from lookonce import APIResponseError, ContextNotFoundError, ServerError


def test_the_pieces_come_in_order_and_make_the_answer(server, client, png, context_id):
    image = client.image(png)
    stream = image.stream("what?", max_tokens=5)
    assert list(stream) == ["dark ", "rød"]
    assert (stream.answer.text, stream.answer.hit, stream.answer.prompt_tokens) == ("dark rød", False, 30)
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
    image = client.image(png, prepare=True)
    server.contexts.clear()
    assert "".join(image.stream("what?")) == "dark rød"
    assert [url[:9] for url in server.image_urls()] == ["lookonce:", "data:imag"]


def test_a_lost_context_without_pixels_is_an_error(client, context_id):
    with pytest.raises(ContextNotFoundError):
        client.image(f"lookonce:{context_id}").stream("what?")


def test_an_error_inside_the_stream_is_raised(server, client, png):
    server.stream_events = [json.dumps({"error": {"message": "out of memory", "type": "server_error"}})]
    with pytest.raises(ServerError, match="out of memory"):
        list(client.image(png).stream("what?"))


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (['{"choices": []}'], "ended before the answer did"),
        (["not json"], "not a piece of an answer"),
        (["[DONE]"], "not a streamed answer"),
    ],
)
def test_a_broken_stream_is_not_an_answer(server, client, png, events, message):
    server.stream_events = events
    with pytest.raises(APIResponseError, match=message):
        list(client.image(png).stream("what?"))
