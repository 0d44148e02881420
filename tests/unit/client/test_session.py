"""Pixels are sent until the context is known, and again when the server lost it."""

import base64
from urllib.parse import parse_qs, urlsplit

import pytest

from lookonce import Answer, Context, ContextNotFoundError, ContextStats


def ids(count: int) -> list[str]:
    """Context ids, in the order in which they are listed."""
    return [f"{i:064x}" for i in range(count)]


def test_pixels_first_then_only_the_context(server, client, png, context_id):
    image = client.image(png)
    first, second = image.ask("what?"), image.ask("what else?")
    assert server.image_urls() == ["data:image/png;base64," + base64.b64encode(png).decode(), f"lookonce:{context_id}"]
    assert (first.hit, first.tier, second.hit, second.tier) == (False, None, True, "memory")


def test_every_fact_of_an_answer(client, png, context_id):
    image = client.image(png, prepare=True)
    answer = image.ask("what?")
    assert answer == Answer("red", True, "memory", 20, 60, context_id, 30, 20, 1, seconds=answer.seconds)
    assert answer.seconds > 0


def test_a_lost_context_is_replaced_by_the_pixels_once(server, client, png, context_id):
    image = client.image(png)
    image.ask("what?")
    server.contexts.clear()
    assert image.ask("what else?").text == "red"
    assert [url[:9] for url in server.image_urls()] == ["data:imag", "lookonce:", "data:imag"]
    assert image.context_id == context_id


def test_a_lost_context_without_pixels_is_an_error(server, client, context_id):
    with pytest.raises(ContextNotFoundError, match="no such context"):
        client.image(f"lookonce:{context_id}").ask("what?")
    assert len(server.image_urls()) == 1


def test_a_context_by_name_is_asked_without_pixels(server, client, context_id):
    server.contexts.add(context_id)
    assert client.image(f"lookonce:{context_id}").ask("what?").hit
    assert server.image_urls() == [f"lookonce:{context_id}"]


def test_prepare_makes_the_first_answer_a_hit(server, client, png, context_id):
    image = client.image(png, prepare=True)
    assert image.context_id == context_id
    assert image.ask("what?").hit
    assert server.image_urls() == [f"lookonce:{context_id}"]


def test_prepare_of_a_known_context_looks_it_up(server, client, png, context_id):
    image = client.image(png, prepare=True)
    assert image.prepare().id == context_id
    server.contexts.clear()
    assert image.prepare().id == context_id
    contexts = [(method, path) for method, path, _ in server.requests]
    one = f"/v1/contexts/{context_id}"
    assert contexts == [("POST", "/v1/contexts"), ("GET", one), ("GET", one), ("POST", "/v1/contexts")]


def test_options_are_sent_and_what_is_left_out_is_not(server, client, png):
    client.image(png).ask("what?", max_tokens=5, temperature=0.0, stop=["."], on_miss="compress")
    body = server.requests[-1][2]
    assert body.keys() == {"model", "messages", "max_tokens", "temperature", "stop", "lookonce"}
    assert body["lookonce"] == {"on_miss": "compress"}
    assert body["model"] == "tiny"


def test_an_unknown_option_is_named(client, png):
    with pytest.raises(TypeError, match=r"unknown option 'max_token'; known are max_tokens"):
        client.image(png).ask("what?", max_token=5)


def test_contexts_are_listed_read_and_deleted(client, png, context_id):
    made = client.create_context(png)
    assert isinstance(made, Context)
    assert (made.id, made.kept_tokens, made.precision, made.expires_at) == (context_id, 4, "int8", None)
    assert list(client.list_contexts()) == [client.get_context(f"lookonce:{context_id}")] == [made]
    client.delete_context(context_id)
    assert list(client.list_contexts()) == []
    with pytest.raises(ContextNotFoundError):
        client.get_context(context_id)


def test_pages_are_fetched_as_they_are_needed(server, client):
    server.contexts |= set(ids(250))
    listed = client.list_contexts()
    assert server.requests == []
    assert next(listed).id == ids(250)[0]
    assert len(server.requests) == 1
    assert [context.id for context in listed] == ids(250)[1:]
    queries = [parse_qs(urlsplit(path).query) for _, path, _ in server.requests]
    assert queries == [
        {"limit": ["100"]},
        {"limit": ["100"], "after": [f"after {ids(250)[99]}"]},
        {"limit": ["100"], "after": [f"after {ids(250)[199]}"]},
    ]


@pytest.mark.parametrize(
    ("limit", "asked_for"), [(0, []), (3, ["3"]), (100, ["100"]), (120, ["100", "20"]), (999, ["100", "100"])]
)
def test_a_limit_is_of_contexts_not_of_pages(server, client, limit, asked_for):
    server.contexts |= set(ids(150))
    assert [context.id for context in client.list_contexts(limit=limit)] == ids(150)[:limit]
    assert [parse_qs(urlsplit(path).query)["limit"][0] for _, path, _ in server.requests] == asked_for


def test_a_page_may_be_empty_and_not_the_last(server, client):
    server.contexts |= set(ids(3))
    server.hidden = set(ids(2))
    assert [context.id for context in client.list_contexts(limit=1)] == ids(3)[2:]
    assert len(server.requests) == 3


def test_what_the_contexts_amount_to(client):
    stats = client.context_stats()
    assert stats == ContextStats(2, 3 * 1024**2, 1_700_000_000, 1_700_000_060, 3, 1, 0.75)


def test_the_model_is_looked_up_once(server, client, png):
    image = client.image(png)
    image.ask("what?")
    image.ask("what else?")
    assert [path for _, path, _ in server.requests].count("/v1/models") == 1
    assert client.models() == ["tiny"]
