"""Pixels are sent until the context is known, and again when the server lost it."""

import base64
from urllib.parse import parse_qs, urlsplit

import pytest

from lookonce import Answer, Context, ContextNotFoundError, ContextStats, ImageUsage, ServerError

from .contract_server import GREY, Failure


def ids(count: int) -> list[str]:
    """Context ids, in the order in which they are listed."""
    return [f"{i:064x}" for i in range(count)]


def test_pixels_first_then_only_the_context(server, client, png, context_id):
    image = client.image(png)
    first, second = image.ask("what?"), image.ask("what else?")
    assert server.image_urls() == ["data:image/png;base64," + base64.b64encode(png).decode(), f"lookonce:{context_id}"]
    assert (first.hit, first.tier, second.hit, second.tier) == (False, None, True, "memory")


def test_every_fact_of_an_answer(client, png, context_id):
    image = client.image(png)
    image.prepare()
    answer = image.ask("what?")
    use = ImageUsage(context_id, "hit", "memory", 20, 64)
    expected = Answer("red", "hit", "memory", 20, 70, context_id, 30, 20, 1, seconds=answer.seconds, images=(use,))
    assert answer == expected
    assert answer.hit
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
    image = client.image(png)
    assert (image.context_id, image.context, image.description) == (None, None, None)
    assert image.prepare() == image.context
    assert (image.context_id, image.description) == (context_id, "a red circle")
    assert image.ask("what?").hit
    assert server.image_urls() == [f"lookonce:{context_id}"]


def test_prepare_of_a_known_context_looks_it_up(server, client, png, context_id):
    image = client.image(png)
    image.prepare()
    assert image.prepare().id == context_id
    server.contexts.clear()
    assert image.prepare().id == context_id
    contexts = [(method, path) for method, path, _ in server.requests]
    one = f"/v1/contexts/{context_id}"
    assert contexts == [("POST", "/v1/contexts"), ("GET", one), ("GET", one), ("POST", "/v1/contexts")]


@pytest.mark.parametrize(("status", "code"), [(503, "store_unavailable"), (503, "context_lost")])
def test_a_context_out_of_reach_is_replaced_by_the_pixels_at_once(server, connect, png, context_id, status, code):
    image = connect().image(png)
    image.ask("what?")
    server.failures.append(Failure(status, code, retry_after="1000"))
    assert image.ask("what else?").text == "red"
    assert [url[:9] for url in server.image_urls()] == ["data:imag", "lookonce:", "data:imag"]
    assert image.context_id == context_id


def test_options_of_the_session_ride_on_every_request(server, client, png):
    image = client.image(png, retention=0.1, ttl=60, describe_prompt="Look.", on_miss="compress")
    image.ask("what?")
    image.ask("what else?", ttl=5, on_miss="full")
    chosen = {"retention": 0.1, "ttl": 60, "describe_prompt": "Look.", "on_miss": "compress"}
    assert [body["lookonce"] for body in server.bodies()] == [chosen, chosen | {"ttl": 5, "on_miss": "full"}]
    server.contexts.clear()
    image.prepare()
    (made,) = server.bodies("/v1/contexts")
    assert made == {"image_url": made["image_url"], "retention": 0.1, "ttl": 60, "describe_prompt": "Look."}


def test_bypassing_the_cache_takes_the_pixels_each_time(server, client, png):
    image = client.image(png)
    image.prepare()
    answer = image.ask("what?", cache="bypass")
    assert (answer.cache, answer.hit, answer.context_id) == ("bypass", False, None)
    assert [url[:9] for url in server.image_urls()] == ["data:imag"]
    assert image.ask("what?").hit


def test_with_a_fallback_the_pixels_come_along_each_time(server, client, png):
    image = client.image(png)
    image.prepare()
    answers = [image.ask("what?", fallback=True), image.ask("what?", fallback=False), image.ask("what?")]
    assert [url[:9] for url in server.image_urls()] == ["data:imag", "lookonce:", "lookonce:"]
    assert [body.get("lookonce") for _, _, body in server.requests[-3:]] == [
        {"fallback": True},
        {"fallback": False},
        None,
    ]
    assert [(answer.fallback, answer.hit) for answer in answers] == [("full_pass", False), (None, True), (None, True)]
    assert (image.saved.questions, image.saved.hits) == (3, 2)


def test_options_are_sent_and_what_is_left_out_is_not(server, client, png):
    client.image(png).ask("what?", max_tokens=5, temperature=0.0, stop=["."], on_miss="compress")
    body = server.requests[-1][2]
    assert body.keys() == {"model", "messages", "max_tokens", "temperature", "stop", "lookonce"}
    assert body["lookonce"] == {"on_miss": "compress"}
    assert body["model"] == "tiny"


def test_an_unknown_option_is_named(client, png):
    with pytest.raises(TypeError, match=r"unknown option 'max_token'; known are max_tokens"):
        client.image(png).ask("what?", max_token=5)
    with pytest.raises(TypeError, match=r"unknown option 'max_token'"):
        client.image(png).stream("what?", max_token=5)
    with pytest.raises(TypeError, match=r"unknown option 'tt1'; known are .*ttl"):
        client.image(png, tt1=5)
    with pytest.raises(TypeError, match=r"unknown option 'on_miss'; known are retention, ttl, describe_prompt"):
        client.create_context(png, on_miss="full")


def test_contexts_are_listed_read_and_deleted(client, png, context_id):
    made = client.create_context(png, retention=0.05)
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
    assert stats == ContextStats(2, 3 * 1024**2, 1_700_000_000, 1_700_000_060, 3, 1, 0.75, 900)


def test_the_model_is_looked_up_once(server, client, png):
    image = client.image(png)
    image.ask("what?")
    image.ask("what else?")
    assert [path for _, path, _ in server.requests].count("/v1/models") == 1
    assert client.models() == ["tiny"]


def test_leaving_an_image_leaves_its_context(server, client, png, context_id):
    with client.image(png) as image:
        image.ask("what?")
    assert server.contexts == {context_id}


def test_leaving_an_image_forgets_it_where_that_was_asked_for(server, client, png):
    with client.image(png, forget=True) as image:
        image.ask("what?")
    assert server.contexts == set()
    assert server.requests[-1][0] == "DELETE"


def test_an_image_that_was_never_asked_about_needs_no_forgetting(server, client, png):
    with client.image(png, forget=True):
        pass
    assert server.requests == []


def test_forgetting_waits_for_a_context_that_is_still_being_made(server, client, png):
    server.making = True
    image = client.image(png)
    image.ask("what?")
    assert server.contexts == set()
    assert image.forget() is True
    assert [method for method, _, _ in server.requests[2:]] == ["DELETE", "POST", "DELETE"]
    assert server.contexts == set()


def test_what_is_forgotten_may_be_asked_about_again(server, client, png, context_id):
    image = client.image(png)
    image.prepare()
    assert image.forget() is True
    assert image.forget() is False
    assert (image.context_id, image.description) == (None, None)
    assert not image.ask("what?").hit


def test_forgetting_a_context_that_went_by_itself(server, client, png):
    image = client.image(png)
    image.prepare()
    server.contexts.clear()
    assert image.forget() is False
    assert [method for method, _, _ in server.requests] == ["POST", "DELETE"]


def test_an_error_is_not_replaced_by_that_of_forgetting(server, client, png):
    def leave(divisor: int) -> None:
        server.refuse = None
        with client.image(png, forget=True) as image:
            image.prepare()
            server.refuse = 500, b"{}"
            1 / divisor

    with pytest.raises(ZeroDivisionError):
        leave(0)
    with pytest.raises(ServerError):
        leave(1)


def test_the_tokens_kept(server, client, png, context_id):
    image = client.image(png)
    found = image.tokens()
    assert (found.id, found.grid, found.scores, found.kept) == (context_id, (2, 2), (0.1, 0.2, 0.3, 0.4), (3,))
    assert (found.retention, found.selection) == (0.05, "attention")
    assert found.boxes is not None
    assert found.boxes[3] == (0.5, 0.5, 1.0, 1.0)
    assert image.tokens(retention=0.5).retention == 0.5
    assert [path for _, path, _ in server.requests].count("/v1/contexts") == 1


def test_a_heat_map_is_drawn_over_the_pixels_that_are_known(server, client, png, context_id):
    image = client.image(png)
    pixels = b"data:image/png;base64," + base64.b64encode(png)
    assert image.heatmap() == pixels + b"0.05"
    assert image.heatmap(retention=0.2) == pixels + b"0.2"
    assert image.heatmap(over_image=False) == GREY + b"0.05"
    server.contexts.clear()
    assert image.heatmap() == pixels + b"0.05"
    assert client.image(f"lookonce:{context_id}").heatmap() == GREY + b"0.05"


def test_a_heat_map_of_what_is_not_there(client, context_id):
    with pytest.raises(ContextNotFoundError):
        client.image(f"lookonce:{context_id}").heatmap()
