"""Whatever goes wrong is one of the package's errors, and says what."""

import json
import socket

import pytest

import lookonce


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_image", lookonce.BadRequestError),
        (401, "invalid_api_key", lookonce.AuthenticationError),
        (403, None, lookonce.PermissionDeniedError),
        (404, "model_not_found", lookonce.NotFoundError),
        (404, "context_not_found", lookonce.ContextNotFoundError),
        (409, None, lookonce.APIStatusError),
        (413, "image_too_large", lookonce.BadRequestError),
        (422, None, lookonce.BadRequestError),
        (429, "overloaded", lookonce.OverloadedError),
        (429, "rate_limit_exceeded", lookonce.RateLimitError),
        (429, "concurrency_limit_exceeded", lookonce.RateLimitError),
        (302, None, lookonce.APIStatusError),
        (500, None, lookonce.ServerError),
        (503, "not_ready", lookonce.ServerError),
    ],
)
def test_each_status_has_its_error(server, client, status, code, kind):
    error = {"message": "because", "type": "some_error", "param": "image_url", "code": code}
    server.refuse = status, json.dumps({"error": error}).encode()
    with pytest.raises(lookonce.APIStatusError, match="because") as raised:
        client.models()
    assert type(raised.value) is kind
    assert (raised.value.status_code, raised.value.code, raised.value.param) == (status, code, "image_url")
    assert (raised.value.type, raised.value.request_id) == ("some_error", "req-1")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("7", 7), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("9" * 5000, None)],
)
@pytest.mark.parametrize("status", [429, 503])
def test_when_to_ask_again_is_told(server, client, status, header, seconds):
    server.refuse, server.retry_after = (status, b"{}"), header
    with pytest.raises(lookonce.APIStatusError) as raised:
        client.models()
    assert raised.value.retry_after == seconds


@pytest.mark.parametrize("body", [b"{}", b'{"data": []}', b'{"data": [{"id": "a"}], "next": null}', b"[]"])
def test_a_page_of_another_server_is_refused(server, client, body):
    server.refuse = 200, body
    with pytest.raises(lookonce.APIResponseError, match="lookonce server"):
        list(client.list_contexts())


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"contexts": 1}'])
def test_stats_of_another_server_are_refused(server, client, body):
    server.refuse = 200, body
    with pytest.raises(lookonce.APIResponseError, match="stats of a lookonce server"):
        client.context_stats()


def test_an_error_page_without_an_error_object_is_quoted(server, client, png):
    server.refuse = 502, b"<h1>Bad\n Gateway</h1>"
    with pytest.raises(lookonce.ServerError, match=r"502 Bad Gateway from http://.*/v1/models: <h1>Bad Gateway</h1>"):
        client.image(png).ask("what?")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": 1}', b'{"data": [1]}'])
def test_a_reply_of_another_server_is_refused(server, client, body):
    server.refuse = 200, body
    with pytest.raises(lookonce.APIResponseError, match="lookonce server"):
        client.models()


def test_a_plain_openai_answer_is_refused_by_name(server, connect, png):
    server.refuse = 200, b'{"choices": [{"message": {"content": "red"}}]}'
    with pytest.raises(lookonce.APIResponseError, match="KeyError: 'lookonce'"):
        connect(model="m").image(png).ask("what?")


def test_nobody_listens(connect, png):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(lookonce.APIConnectionError, match=f"no answer from {url}") as raised:
            connect(url).image(png).ask("what?")
    assert raised.value.request.url.path == "/v1/models"


def test_nobody_answers(connect):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(lookonce.APITimeoutError, match="no answer in time"):
            connect(url, timeout=0.1).models()


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://[::1"])
def test_a_bad_server_address_is_named(connect, url):
    with pytest.raises(ValueError, match="base_url is"):
        connect(url)


def test_the_address_of_openai_clients_works_too_and_the_key_is_sent(server, connect):
    assert connect(server.url + "/v1/", api_key="secret").models() == ["tiny"]
    assert server.headers[-1]["authorization"] == "Bearer secret"


def test_a_proxy_is_not_asked_for_this_machine(connect, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert connect().models() == ["tiny"]
