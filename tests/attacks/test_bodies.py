"""Bodies that are made to cost more than they are: refused for little, while another client is answered."""

import io
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2
import psutil
import pytest
from PIL import Image

from ..support.http_requests import ask
from ..support.pictures import data_url, picture_url, png
from ..support.server_process import MODEL, LookonceServer
from .raw import RawConnection, head

_log = logging.getLogger(__name__)
CHAT, RESPONSES, CONTEXTS = "/v1/chat/completions", "/v1/responses", "/v1/contexts"
HEATMAP = f"/v1/contexts/{'0' * 64}/heatmap.png"
MB = 1_000_000
LARGE = 25 * MB
CPU_SECONDS = 2.5  # of an attack, the other client's questions included; before there were bounds some took minutes
MEMORY = 350 * MB  # that an attack may add: its body some times over


def chat(rest: bytes) -> bytes:
    """A question with these fields besides."""
    return b'{"model":"%s","messages":[{"role":"user","content":"Hi"}],"max_tokens":1,%s}' % (MODEL.encode(), rest)


def message(rest: bytes) -> bytes:
    """A question whose message has these fields."""
    return b'{"model":"%s","max_tokens":1,"messages":[{"role":"user",%s}]}' % (MODEL.encode(), rest)


def images(url: bytes) -> bytes:
    """A question about as many images as one body may have, in as many parts as messages may have."""
    part = b'{"type":"image_url","image_url":{"url":"%s"}}' % url
    parts = [part % i if b"%" in part else part for i in range(60 * 1024)]
    said = [b'{"role":"user","content":[%s]}' % b",".join(parts[i : i + 1024]) for i in range(0, len(parts), 1024)]
    return b'{"model":"%s","max_tokens":1,"messages":[%s]}' % (MODEL.encode(), b",".join(said))


def response(rest: bytes) -> bytes:
    return b'{"model":"%s",%s}' % (MODEL.encode(), rest)


def filled(start: bytes, piece: bytes, end: bytes, size: int = LARGE) -> bytes:
    return start + piece * ((size - len(start) - len(end)) // len(piece)) + end


def names(count: int, value: bytes = b"0") -> bytes:
    return b",".join(b'"x%d":%s' % (i, value) for i in range(count))


EMPTY = b'{"role":"user","content":""}'
SHORT = b'{"role":"user","content":"a b c"}'  # too many tokens, of as many as are taken
PART = b'{"type":"text","text":""}'
ANSWER = b'"input":[{"role":"assistant","content":[{"type":"output_text","text":"",'

Make = Callable[[], bytes]
JSON: dict[str, tuple[str, Make]] = {
    "no messages, 1.9 MB": (CHAT, lambda: filled(b'{"messages":[', b"0,", b"0]}", 1_900_000)),
    "no messages, 25 MB": (CHAT, lambda: filled(b'{"messages":[', b"0,", b"0]}")),
    "as many as are read": (CHAT, lambda: filled(b'{"messages":[', b"0,", b"0]}", 490_000)),
    "empty messages": (CHAT, lambda: b'{"messages":[%s]}' % b",".join([EMPTY] * 400_000)),
    "as many empty ones as are read": (
        CHAT,
        lambda: b'{"model":"%s","messages":[%s]}' % (MODEL.encode(), b",".join([EMPTY] * 83_000)),
    ),
    "as many short ones as are taken": (
        CHAT,
        lambda: b'{"model":"%s","messages":[%s]}' % (MODEL.encode(), b",".join([SHORT] * 2048)),
    ),
    "empty parts": (CHAT, lambda: message(b'"content":[%s]' % b",".join([PART] * 80_000))),
    "no parts": (CHAT, lambda: message(filled(b'"content":[', b"0,", b"0]", 490_000))),
    "unknown fields": (CHAT, lambda: chat(names(240_000))),
    "messages of unknown fields": (
        CHAT,
        lambda: b'{"model":"m","messages":[%s]}' % b",".join([b"{%s}" % names(120)] * 2000),
    ),
    "objects": (CHAT, lambda: filled(b'{"messages":[', b"{},", b"0]}")),
    "texts": (CHAT, lambda: filled(b'{"messages":[', b'"",', b"0]}")),
    "nested lists": (CHAT, lambda: b"[" * LARGE),
    "nested objects": (CHAT, lambda: b'{"a":' * (LARGE // 5)),
    "closings": (CHAT, lambda: b"[" * 200 + b"]" * LARGE),
    "tools": (CHAT, lambda: chat(filled(b'"tools":[', b"0,", b"0]", 490_000))),
    "biases": (CHAT, lambda: chat(b'"logit_bias":{%s}' % names(4900))),
    "labels": (CHAT, lambda: chat(b'"metadata":{%s}' % names(4900))),
    "stops": (CHAT, lambda: chat(filled(b'"stop":[', b"0,", b"0]", 490_000))),
    "a schema": (
        CHAT,
        lambda: chat(
            b'"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"enum":[%s0]}}}'
            % (b"0," * 240_000)
        ),
    ),
    "a wide schema": (
        CHAT,
        lambda: chat(
            b'"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"object",'
            b'"properties":{%s}}}}' % names(4900, b'{"type":"string"}')
        ),
    ),
    "a name twice": (CHAT, lambda: chat(b",".join([names(2400)] * 2))),
    "one number": (CHAT, lambda: chat(b'"seed":' + b"9" * LARGE)),
    "numbers": (CHAT, lambda: chat(filled(b'"tools":[', b"9" * 99 + b",", b"0]", 20 * MB))),
    "one float": (CHAT, lambda: chat(b'"top_p":0.' + b"9" * LARGE)),
    "one name": (CHAT, lambda: b'{"%s":[NaN]}' % (b"x" * LARGE)),
    "names within names": (CHAT, lambda: (b'{"%s":' % (b"x" * 250_000)) * 99 + b"NaN" + b"}" * 99),
    "a text of commas": (CHAT, lambda: message(b'"content":"%s"' % (b"," * LARGE))),
    "a text of escapes": (CHAT, lambda: message(b'"content":"%s"' % (b'\\"\\\\' * (LARGE // 4)))),
    "a text beyond ASCII": (CHAT, lambda: message(b'"content":"%s\xf0\x9f\x98\x80"' % (b"x" * LARGE))),
    "half a character, at the end": (CHAT, lambda: message(b'"content":"%s\\ud800"' % (b"x" * LARGE))),
    "spaces": (CHAT, lambda: b" " * LARGE),
    "an image of spaces": (CHAT, lambda: message(
        b'"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,%s"}}]' % (b" " * LARGE)
    )),
    "images": (CHAT, lambda: images(b"lookonce:%d")),
    "one image, as often as is read": (CHAT, lambda: images(b"lookonce:x")),
    "images of responses": (RESPONSES, lambda: response(b'"input":[%s]' % b",".join(
        b'{"role":"user","content":[{"type":"input_image","image_url":"lookonce:%d"}]}' % i for i in range(2048)
    ))),
    "no input": (RESPONSES, lambda: response(filled(b'"input":[', b"0,", b"0]", 490_000))),
    "empty input": (RESPONSES, lambda: response(b'"input":[%s]' % b",".join([EMPTY] * 83_000))),
    "as much short input as is taken": (RESPONSES, lambda: response(b'"input":[%s]' % b",".join([SHORT] * 2048))),
    "included": (RESPONSES, lambda: response(filled(b'"input":"","include":[', b"0,", b"0]", 490_000))),
    "annotations": (RESPONSES, lambda: response(filled(ANSWER + b'"annotations":[', b"0,", b"0]}]}]", 490_000))),
    "logprobs": (RESPONSES, lambda: response(filled(ANSWER + b'"logprobs":[', b"{},", b"{}]}]}]", 370_000))),
    "no image": (CONTEXTS, lambda: filled(b'{"image_url":[', b"0,", b"0]}", 490_000)),
    "unknown wishes": (CONTEXTS, lambda: b"{%s}" % names(4900)),
    "nested, to look at": (HEATMAP, lambda: b"[" * LARGE),
}  # fmt: skip

TAKEN: dict[str, Make] = {
    "empty parts of many messages": lambda: (
        b'{"model":"%s","max_tokens":1,"messages":[%s]}'
        % (MODEL.encode(), b",".join([b'{"role":"user","content":[%s]}' % b",".join([PART] * 1024)] * 80))
    ),
    "unknown fields that are null": lambda: chat(names(4900, b"null")),
    "messages of unknown fields that are null": lambda: (
        b'{"model":"%s","max_tokens":1,"messages":[%s]}'
        % (MODEL.encode(), b",".join([b'{"role":"user","content":"",%s}' % names(230, b"null")] * 1000))
    ),
}


def form(*parts: bytes, end: bytes = b"--edge--\r\n") -> bytes:
    return b"".join(parts) + end


def part(head: bytes, content: bytes = b"") -> bytes:
    return b"--edge\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


FIELD = b'content-disposition: form-data; name="ttl"'
FILE = b'content-disposition: form-data; name="image"; filename="a"'
FORMS: dict[str, Make] = {
    "parts": lambda: form(part(FIELD) * 300_000),
    "empty files": lambda: form(part(FILE) * 300_000),
    "part headers": lambda: form(part(FIELD + b"\r\na: b" * 3_000_000)),
    "a part header": lambda: form(part(FIELD + b"\r\na: " + b"b" * LARGE)),
    "a part header's name": lambda: form(part(b"b" * LARGE + b": a")),
    "a name": lambda: form(part(b'content-disposition: form-data; name="%s"' % (b"x" * LARGE))),
    "parameters": lambda: form(part(b"content-disposition: form-data" + b"; a=b" * 4_000_000)),
    "no end": lambda: form(part(FILE), end=b""),
    "no beginning": lambda: form(b"\r\n" * (LARGE // 2)),
    "edges within": lambda: form(part(FILE, b"\r\n--edg" * 3_000_000)),
    "line ends within": lambda: form(part(FILE, b"\r" * (20 * MB))),
    "after the end": lambda: form(part(FILE), end=b"--edge--\r\n" + b"x" * LARGE),
    "an edge alone": lambda: form(b"--edge\r\n" * 3_000_000),
}


class Cost(NamedTuple):
    """What a server spent."""

    cpu: float  # seconds
    memory: int  # bytes above what it had, at the most


@contextmanager
def measured(server: LookonceServer) -> Iterator[Callable[[], Cost]]:
    """What a server spends from here on, as the function given tells it."""
    process = psutil.Process(server.pid)
    before = process.cpu_times(), process.memory_info().rss
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # the peak begins anew

    def cost() -> Cost:
        now = process.cpu_times()
        peak = int(Path(f"/proc/{server.pid}/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
        return Cost(now.user + now.system - before[0].user - before[0].system, peak - before[1])

    yield cost


class Neighbour(threading.Thread):
    """Another client, who asks about an image that is known, again and again, until it is told to stop."""

    def __init__(self, server: LookonceServer) -> None:
        super().__init__(daemon=True)
        self.replies: list[tuple[int, str | None]] = []
        self.longest = 0.0
        self._server = server
        self._stopped = threading.Event()

    def run(self) -> None:
        """Ask; at least once."""
        while True:
            begun = time.monotonic()
            reply = ask(self._server, picture_url(7), max_tokens=1)
            self.longest = max(self.longest, time.monotonic() - begun)
            self.replies.append((reply.status, reply.cache))
            if self._stopped.wait(0.05):
                return

    def stop(self) -> None:
        """Return once the last answer is there."""
        self._stopped.set()
        self.join(120)
        assert not self.is_alive()


@pytest.fixture(scope="module")
def server() -> Iterator[LookonceServer]:
    with LookonceServer() as running:
        assert running.post(CONTEXTS, json={"image_url": data_url(png(7))}).status_code == 200
        largest = running.post(CONTEXTS, content=b"x" * LARGE, headers={"content-type": "application/json"})
        assert largest.status_code == 400  # its memory is the process's own from here on
        yield running


@pytest.fixture
def attack(server, request) -> Iterator[Callable[[str, bytes, str], httpx2.Response]]:
    """Sends a body while another client asks: what it cost is bounded, and logged for those who want to see it."""

    def send(path: str, body: bytes, kind: str) -> httpx2.Response:
        neighbour = Neighbour(server)
        with measured(server) as cost:
            neighbour.start()
            reply = server.post(path, content=body, headers={"content-type": kind})
            neighbour.stop()
            spent = cost()
        told = f"{len(body) / MB:.1f} MB, {reply.status_code}: {spent.cpu:.2f} s, {spent.memory / MB:.0f} MB"
        _log.info("%s: %s; the neighbour waited %.2f s", request.node.callspec.id, told, neighbour.longest)
        assert set(neighbour.replies) == {(200, "hit")}
        assert spent.cpu < CPU_SECONDS, told
        assert spent.memory < MEMORY, told
        return reply

    return send


def assert_refused(reply: httpx2.Response, *statuses: int) -> None:
    error = reply.json()["error"]
    assert reply.status_code in (400, *statuses), reply.text
    assert error["type"] == "invalid_request_error"
    assert len(reply.content) < 1000


@pytest.mark.parametrize(("path", "make"), JSON.values(), ids=JSON)
def test_json_is_refused_for_little(attack, path, make):
    assert_refused(attack(path, make(), "application/json"))


@pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN)
def test_json_that_is_odd_and_right_is_taken_for_little(attack, make):
    assert attack(CHAT, make(), "application/json").status_code == 200


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_a_form_is_refused_for_little(attack, make):
    assert_refused(attack(CONTEXTS, make(), "multipart/form-data; boundary=edge"), 413)  # 413: larger than any form


@pytest.mark.parametrize("path", [CHAT, CONTEXTS])
def test_a_client_that_leaves_within_its_body_is_one_line_of_log(server, path):
    lines = server.log().count(" status=499 ")
    with RawConnection(server.url) as connection:
        connection.send(head("POST", path, "content-type: application/json", "content-length: 99") + b'{"model":')
    deadline = time.monotonic() + 60
    while server.log().count(" status=499 ") == lines:
        assert time.monotonic() < deadline, server.log()[-3000:]
        time.sleep(0.01)
    assert "Traceback" not in server.log()


def test_however_many_come_at_once_few_are_held_as_text(server):
    """A character beyond ASCII makes four bytes of each, while a body is read."""
    body = message(b'"content":"%s\xf0\x9f\x98\x80"' % (b"x" * (10 * MB)))

    def send() -> None:
        assert server.post(CHAT, content=body, headers={"content-type": "application/json"}).status_code == 400

    threads = [threading.Thread(target=send) for _ in range(8)]
    with measured(server) as cost:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent = cost()
    _log.info("8 at once: %.2f s, %.0f MB", spent.cpu, spent.memory / MB)
    assert spent.memory < 8 * 3 * len(body) + MEMORY


def test_many_large_images_of_one_question_are_not_all_held(server):
    """Of small files: decoded, the sixteen would take 2.6 GB. Another client is answered meanwhile."""
    file = io.BytesIO()
    Image.new("RGB", (8000, 5000), "teal").save(file, "PNG", compress_level=1)
    parts = [
        {"type": "image_url", "image_url": {"url": data_url(file.getvalue() + bytes([i]))}} for i in range(16)
    ]  # bytes behind an image make another one
    for wanted in ("bypass", "use"):
        request = {"model": MODEL, "messages": [{"role": "user", "content": parts}], "lookonce": {"cache": wanted}}
        neighbour = Neighbour(server)
        with measured(server) as cost:
            neighbour.start()
            reply = server.post(CHAT, json=request)
            neighbour.stop()
            spent = cost()
        _log.info("16 large images: %.2f s, %.0f MB", spent.cpu, spent.memory / MB)
        assert_refused(reply)
        assert "more pixels together than the limit of 160000000" in reply.json()["error"]["message"]
        assert set(neighbour.replies) == {(200, "hit")}
        # Pillow has four bytes a pixel; two are decoded at a time, and their pixels come as three bytes each.
        assert spent.memory < (4 * 160 + 2 * (3 + 4) * 40 + 100) * MB
