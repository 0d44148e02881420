"""The server's outer wall, from the wire: bodies that harm, clients that dawdle or leave, limits, its log, its end."""

import base64
import json
import signal
import socket
from collections.abc import Iterator

import httpx2
import openai
import pytest

from lookonce_server.auth.tenants import key_hash, new_key

from ..support.http_requests import ask, question_about
from ..support.pictures import data_url, messages, picture_url, png
from ..support.server_process import MODEL, LookonceServer

KEYS = {tenant: new_key() for tenant in ("acme", "slow", "other")}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def running() -> Iterator[LookonceServer]:
    """Without keys; a body has a second."""
    limits = [part for name in ("image", "video") for part in (f"--max-{name}-bytes", str(3 * 1024 * 1024))]
    with LookonceServer("--body-timeout", "1", *limits) as server:
        yield server


@pytest.fixture(scope="module")
def keyed(tmp_path_factory) -> Iterator[LookonceServer]:
    """With keys from both places, limits, and everything that is ever logged."""
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    hashes = {tenant: f"sha256:{key_hash(key)}" for tenant, key in KEYS.items()}
    file.write_text(
        f'[tenants]\nacme = ["{hashes["acme"]}"]\n'
        f'[tenants.slow]\nkeys = ["{hashes["slow"]}"]\nmax_concurrent = 1\nrequests_per_minute = 1\n'
    )
    keys = ("--api-keys", str(file), "--api-key-hashes", f"other={hashes['other']}")
    limits = ("--max-concurrent-per-tenant", "1", "--log-level", "debug", "--log-format", "json")
    with LookonceServer(*keys, *limits) as server:
        yield server


def talking(client: openai.OpenAI, **options) -> openai.Stream:
    """A stream that goes on for a while, begun: without the end token."""
    options = {"n": 8, "max_tokens": 1000, "logit_bias": {"2": -100}} | options
    stream = client.chat.completions.create(model=MODEL, messages=messages("xyzzy", None), stream=True, **options)
    next(iter(stream))
    return stream


# --- bodies -----------------------------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


BROKEN = {
    **{f"nested {depth}": nested(depth) for depth in (100, 900, *range(955, 985), 1000, 100_000)},
    **{
        f"metadata {depth}": b'{"metadata":' + b'{"a":' * depth + b"1" + b"}" * (depth + 1)
        for depth in (900, 970, 9000)
    },
    "no json": b"{",
    "empty": b"",
    "null": b"null",
    "text": b'"x"',
    "a huge integer": b'{"seed": ' + b"9" * 10_000 + b"}",
    "a large integer": b'{"seed": ' + b"9" * 4_000 + b"}",
    "no utf-8": b'{"model": "\xff\xfe"}',
    "half a character as a name": b'{"\\ud800": 1}',
    **{
        name: json.dumps(question_about(None) | fields).encode()
        for name, fields in {
            "not a number": {"temperature": float("nan")},
            "infinity": {"top_p": float("inf")},
            "half a character": {"messages": [{"role": "user", "content": "\ud800"}]},
            "half a character of an image": {"messages": messages("Hi", "\ud800")},
            "half a character of a part": {"messages": [{"role": "user", "content": [{"type": "\ud800"}]}]},
            "half a character of a label": {"metadata": {"a": "\udfff"}},
        }.items()
    },
}


def test_a_broken_body_is_the_clients_fault(running):
    for name, body in BROKEN.items():
        reply = running.post(CHAT, content=body, headers={"content-type": "application/json"})
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error"), name


def test_two_values_for_one_name_are_refused(running):
    """Whoever looks at requests on their way here, a proxy, may have read the other one."""
    whole = json.dumps(question_about(None, max_tokens=2)).replace('"model"', '"model": "other", "model"', 1)
    reply = running.post(CHAT, content=whole, headers={"content-type": "application/json"})
    assert (reply.status_code, "the name 'model' more than once" in reply.text) == (400, True)


LARGE = b"x" * 12_000_000
JSON = {"content-type": "application/json"}
SENT = {
    "with its length": lambda: {"content": LARGE},
    "in chunks": lambda: {"content": iter([LARGE[:100_000]] * 120), "headers": JSON},
    "as a form": lambda: {"files": {"image": ("x.png", LARGE)}},
}


@pytest.mark.parametrize("path", [CHAT, "/v1/contexts"])
@pytest.mark.parametrize("how", SENT)
def test_a_client_that_sends_too_much_gets_its_answer(running, how, path):
    reply = running.post(path, **SENT[how]())
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
    assert reply.headers["connection"] == "close"


def exchange(server: LookonceServer, *pieces: bytes) -> bytes:
    """What comes back, until the server closes the connection."""
    url = httpx2.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def head(*lines: str, path: str = CHAT) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    "lines",
    [["Content-Length: 100"], ["Transfer-Encoding: chunked"], ["Content-Length: 9"]],
)
def test_a_body_that_does_not_come_is_not_waited_for(running, lines):
    begin = b"1\r\n{\r\n" if "chunked" in lines[0] else b'{"a"'
    answer = exchange(running, head(*lines, "Content-Type: application/json"), begin)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer
    assert b"x-request-id: " in answer


@pytest.mark.parametrize("length", ["5000000000", "9" * 18])
def test_who_announces_too_much_is_answered_at_once(running, length):
    answer = exchange(running, head(f"Content-Length: {length}"), b"{")
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("length", ["-1", "x", "9" * 5000, "1\r\nContent-Length: 2"])
def test_a_length_that_is_none_is_refused_below_us(running, length):
    assert exchange(running, head(f"Content-Length: {length}")).startswith(b"HTTP/1.1 400 ")


def test_no_answer_names_the_software(running):
    for path in ("/health", "/v1/models", "/nowhere"):
        assert "server" not in running.get(path).headers


def test_a_page_of_another_name_that_leads_here_is_refused(running):
    for path in ("/v1/models", "/metrics"):
        with running.http(headers={"host": "rebound.example"}) as client:
            reply = client.get(path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "host_not_allowed")


# --- limits -----------------------------------------------------------------------------------------------------------


def acme_has_no_place(keyed: LookonceServer) -> bool:
    with keyed.http(headers={"authorization": f"Bearer {KEYS['acme']}"}) as client:
        reply = client.get("/v1/models")
    assert reply.status_code in (200, 429), reply.text
    return reply.status_code == 429


def test_a_stream_keeps_its_place_until_it_ends_or_its_client_leaves(keyed):
    with keyed.openai(KEYS["acme"]) as acme, keyed.openai(KEYS["other"]) as other:
        for _ in range(3):
            stream = talking(acme)
            with pytest.raises(openai.RateLimitError) as caught:
                acme.models.list()
            assert caught.value.code == "concurrency_limit_exceeded"
            assert caught.value.response.headers["retry-after"] == "1"
            assert other.models.list().data[0].id == MODEL
            assert keyed.metric("queue_depth") > 0
            stream.close()
            keyed.wait_for("queue_depth", 0)
            while acme_has_no_place(keyed):
                pass
        list(talking(acme, n=1, max_tokens=8))
        assert acme.models.list().data


def test_a_rate_is_kept_and_told(keyed):
    with keyed.openai(KEYS["slow"]) as slow:
        first = slow.models.with_raw_response.list()
        with pytest.raises(openai.RateLimitError) as caught:
            slow.models.list()
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert caught.value.code == "rate_limit_exceeded"
    assert 50 <= int(caught.value.response.headers["retry-after"]) <= 60
    assert keyed.metric("requests_refused_total", reason="rate_limit_exceeded") == 1


def test_a_client_that_leaves_before_its_answer_frees_the_work(running):
    body = json.dumps(question_about(None, "xyzzy", n=8, max_tokens=1000, logit_bias={"2": -100})).encode()
    gone = running.metric("requests_total", status="499")
    url = httpx2.URL(running.url)
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(head("Content-Type: application/json", f"Content-Length: {len(body)}") + body)
        running.wait_for("queue_depth", 8)
    running.wait_for("queue_depth", 0)
    running.wait_for("requests_total", gone + 1, status="499")
    running.log_with("status=499")


# --- the log ----------------------------------------------------------------------------------------------------------


def request_lines(log: str) -> dict[str, dict]:
    """The requests' lines by the id of each; the words for people at the start are no JSON."""
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return {entry["request_id"]: entry for entry in entries if entry["message"] == "request"}


def line_of(reply: httpx2.Response) -> str:
    """What stands in the line of an answer's request, and in no other one that has this id."""
    return f'"message": "request", "request_id": "{reply.headers["x-request-id"]}"'


def test_the_log_tells_each_request_and_nobodys_words(keyed):
    """All that the server is sent and answers, rightly and wrongly, is looked for in all that it has logged."""
    secrets = {"Zanzibar", "Timbuktu", "Kathmandu", *KEYS.values(), *map(key_hash, KEYS.values())}
    wrong = new_key()
    secrets |= {wrong, key_hash(wrong)}
    broken = png(501)[:300] + b"Zanzibar"
    bodies = [
        question_about(picture_url(501), "Zanzibar?"),
        question_about(picture_url(501), "Zanzibar?", stream=True),
        question_about(data_url(broken)),
        question_about(data_url(b"Zanzibar" * 9)),
        question_about("data:image/png;base64,Zanzibar!"),
        question_about("https://Timbuktu:Kathmandu@127.0.0.1:9/Zanzibar.png?sig=Zanzibar"),
        question_about("lookonce:Zanzibar"),
        question_about(None, temperature="Zanzibar"),
        question_about(None, Zanzibar="Timbuktu"),
        question_about(None, model="Zanzibar"),
        question_about(None, user="Zanzibar", metadata={"Timbuktu": "Kathmandu"}, max_tokens=2),
        {"messages": [{"role": "Zanzibar", "content": [{"type": "Timbuktu"}]}]},
    ]
    told = []
    with keyed.http(headers={"authorization": f"Bearer {KEYS['acme']}"}) as client:
        replies = [client.post(CHAT, json=body) for body in bodies]
        assert [reply.status_code for reply in replies] == [200, 200, *[400] * 7, 404, 200, 400]
        made = client.post("/v1/contexts", json={"image_url": picture_url(502)})
        told += [made.json()["description"], replies[0].json()["choices"][0]["message"]["content"]]
        replies += [
            made,
            client.post("/v1/contexts", files={"image": ("Zanzibar.png", broken)}, data={"ttl": "Zanzibar"}),
            client.post(CHAT, content=b'{"Zanzibar": ', headers={"content-type": "application/json"}),
            client.get("/v1/models/Zanzibar?key=Timbuktu", headers={"cookie": "Kathmandu", "referer": "Zanzibar"}),
            client.get(f"/v1/contexts/{KEYS['other']}"),
            client.get("/Zanzibar", headers={"x-request-id": "Zanzibar Timbuktu", "host": "Zanzibar"}),
            client.get("/v1/models", headers={"origin": "https://Zanzibar.example"}),
            client.request("PROPFIND", "/v1/models"),
        ]
        assert client.request("TIMBUKTU", "/v1/models").status_code == 400  # no method at all: it comes to no app
        for header in (f"Bearer {wrong}", f"Basic {KEYS['acme']}", KEYS["acme"], f"Bearer {KEYS['acme']} Zanzibar"):
            replies.append(client.get("/v1/models", headers={"authorization": header, "x-api-key": wrong}))
            assert replies[-1].status_code == 401
    said = keyed.log_with(*map(line_of, replies))
    lines = request_lines(said)
    assert [lines[reply.headers["x-request-id"]]["status"] for reply in replies] == [r.status_code for r in replies]
    pictures = [picture_url(501), picture_url(502), data_url(broken)]
    secrets |= {url[i : i + 16] for url in pictures for i in range(22, len(url) - 16, 16)}
    secrets |= {repr(png(501)[i : i + 8])[2:-1] for i in range(0, 80, 8)}
    secrets |= {text for text in told if len(text) > 3}  # an answer of a digit is in every log
    assert made.json()["description"] in secrets
    assert [secret for secret in secrets if secret.lower() in said.lower()] == []
    assert base64.b64encode(png(501)[:30]).decode() not in said


def test_a_questions_line_has_its_accounts(keyed):
    with keyed.http(headers={"authorization": f"Bearer {KEYS['other']}"}) as client:
        question = question_about(picture_url(503), max_tokens=8)
        replies = [client.post(CHAT, json=question, headers={"x-request-id": f"mine.{i}"}) for i in range(2)]
    lines = request_lines(keyed.log_with(*map(line_of, replies)))
    miss, hit = lines["mine.0"], lines["mine.1"]
    for line, reply in zip((miss, hit), replies, strict=True):
        usage, found = reply.json()["usage"], reply.json()["lookonce"]
        assert line["logger"] == "lookonce_server.http.middleware.request_log"
        assert (line["tenant"], line["method"], line["route"], line["status"]) == ("other", "POST", CHAT, 200)
        assert (line["cache"], line["saved_tokens"]) == (found["cache"], found["tokens_saved"])
        assert (line["prompt_tokens"], line["generated_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert line["computed_tokens"] == usage["prompt_tokens"] - cached
        assert 0 < line["first_token_seconds"] <= line["seconds"]
    assert (miss["cache"], hit["cache"]) == ("miss", "hit")


# --- its end ----------------------------------------------------------------------------------------------------------


def test_told_to_stop_it_finishes_its_streams_and_takes_nothing_new_on():
    with LookonceServer("--shutdown-seconds", "120") as server, server.openai() as client:
        stream = talking(client, n=2, max_tokens=150)
        server.begin_to_stop()
        while (ready := server.get("/ready")).status_code == 200:
            pass
        assert ready.json() == {"status": "not ready", "server": "is shutting down"}
        assert server.get("/health").status_code == 200
        assert ask(server, None).code == "shutting_down"
        with pytest.raises(openai.InternalServerError, match="shutting down") as caught:
            client.models.list()
        assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (503, "1")
        finished = [choice.finish_reason for chunk in stream for choice in chunk.choices if choice.finish_reason]
        assert len(finished) == 2
        assert server.wait() == 0


def test_told_twice_to_stop_it_ends_at_once():
    with LookonceServer("--shutdown-seconds", "600", "--send-timeout", "600") as server, server.openai() as client:
        stream = talking(client)
        server.begin_to_stop()
        while server.get("/ready").status_code == 200:
            pass
        server.begin_to_stop()
        assert server.wait() == -signal.SIGTERM  # by the kernel, whatever hangs
        server.kill()
        with pytest.raises((httpx2.TransportError, openai.APIError)):
            list(stream)


def test_a_stream_that_goes_on_for_too_long_is_cut():
    with LookonceServer("--shutdown-seconds", "0.2") as server, server.openai() as client:
        stream = talking(client)
        server.begin_to_stop()
        assert server.wait() == 0
        with pytest.raises((httpx2.TransportError, openai.APIError)):
            list(stream)
