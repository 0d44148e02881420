"""What a load counts, and what it takes for right."""

import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from PIL import Image

import lookonce
from lookonce_evaluation.bench import load as load_module
from lookonce_evaluation.bench.load import (
    Expected,
    KnownImage,
    Load,
    Picture,
    Reply,
    by_kind,
    chance_of_passing,
    figures,
)
from lookonce_evaluation.bench.soak import SoakResult


def said(cache: str, context_tokens: int) -> lookonce.Answer:
    return lookonce.Answer(
        text="Two.",
        cache=cache,
        tier=None,
        context_tokens=context_tokens,
        tokens_saved=0,
        context_id=None,
        prompt_tokens=9,
        cached_tokens=0,
        completion_tokens=1,
        seconds=0.1,
        fallback=None,
    )


EXPECTED = Expected(full="Two.", context="Three.")


def picture(answers: dict[str, Expected]) -> Picture:
    return Picture(Image.new("RGB", (8, 8)), answers)


def test_the_same_pixels_are_a_new_image_each_time_in_threads_too():
    """Pillow keeps what it is to write on the image: two threads must not save the same one at once."""
    drawn = picture({})
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: drawn.file(), range(400)))
    assert len(set(files)) == 400
    assert all(b"Comment" in file for file in files)


def test_how_often_a_swapped_answer_would_pass():
    pictures = [picture({"?": Expected(full, context)}) for full, context in (("a", "x"), ("a", "y"), ("b", "z"))]
    assert chance_of_passing(pictures) == pytest.approx((2 * 1 / 2) / 6)


def test_what_must_not_be_is_counted():
    replies = [
        Reply("new image", "right", 0.1),
        Reply("known, pixels", "right", 0.3, answer=said("hit", 5)),
        Reply("known, pixels", "wrong", 9.0, answer=said("miss", 0), detail="the answer"),
        Reply("known, by id", "refused", 9.0, unexplained=True),
        Reply("list", "lost", 9.0),
    ]
    counts = {"requests": 5, "answers": 3, "wrong": 1, "lost": 1, "refused clearly": 1, "unexplained": 1}
    assert figures(replies) == counts | {"hits": 1, "degraded": 1} | {
        "p50_ms": pytest.approx(200),
        "p99_ms": pytest.approx(298),
        "longest_ms": pytest.approx(300),
    }
    result = SoakResult(replies, {})
    assert [reply.outcome for reply in result.bad] == ["wrong", "lost"]
    assert not result.is_good
    assert not SoakResult([], {}).is_good
    assert SoakResult(replies[:2], {}).is_good
    assert [row["requests"] for row in by_kind(replies).values()] == [1, 2, 1, 1, 0, 5]
    assert figures(replies[:1])["p99_ms"] == pytest.approx(100)
    assert figures([])["p99_ms"] is None


# --- against a server that answers what it is told to -----------------------------------------------------------------


@pytest.fixture(scope="module")
def serving():
    """Has a server reply to everything with a status and a body, once it has done more, and gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        reply: tuple[int, bytes, Callable[[], None]]

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def do_GET(self):
            status, body, meanwhile = self.reply
            meanwhile()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    def reply_with(status: int, body: bytes, meanwhile: Callable[[], None] = lambda: None) -> str:
        Handler.reply = status, body, meanwhile
        return f"http://127.0.0.1:{server.server_port}"

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield reply_with
    server.shutdown()
    server.server_close()
    thread.join()


def error(code: str) -> bytes:
    return json.dumps({"error": {"message": "no", "type": "server_error", "param": None, "code": code}}).encode()


def answer(text: str, context_tokens: int) -> bytes:
    cache = "hit" if context_tokens else "miss"
    lookonce = {"context_tokens": context_tokens, "context_id": "a" * 64, "tier": "redis", "tokens_saved": 1}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    models = [{"id": "a model"}]  # which the client asks for first
    body = {"data": models, "choices": [choice], "usage": usage, "lookonce": lookonce | {"cache": cache}}
    return json.dumps(body).encode()


def known(context_id: str = "a" * 64) -> KnownImage:
    drawn = picture({"How many?": EXPECTED})
    return KnownImage(drawn, drawn.file(), context_id)


def test_only_a_clear_refusal_of_what_has_no_pixels_is_not_lost(serving):
    cases = [
        (404, error("context_not_found"), "refused"),
        (503, error("store_unavailable"), "refused"),
        (500, error("internal_error"), "lost"),
        (503, b"a proxy's page", "lost"),
        (200, b"{}", "lost"),
        (200, b"", "lost"),
    ]
    for status, body, by_id in cases:
        image = known()
        load = Load(serving(status, body), [image.picture], known=[image])
        for kind in ("new image", "known, pixels", "known, by id"):
            load.request(kind)
        outcomes = {reply.kind: reply.outcome for reply in load.replies}
        assert outcomes == {"new image": "lost", "known, pixels": "lost", "known, by id": by_id}, (status, body)


def test_an_answer_is_right_by_the_way_it_came_and_about_its_own_image(serving, monkeypatch):
    monkeypatch.setattr(load_module, "STREAMED", 0)
    cases = [
        ("Two.", 0, "a", "right"),
        ("Three.", 5, "a", "right"),
        ("Two.", 5, "a", "wrong"),
        ("Three.", 0, "a", "wrong"),
        ("", 0, "a", "wrong"),
        ("Three.", 5, "b", "wrong"),  # another image's context
    ]
    for text, context_tokens, image_id, outcome in cases:
        image = known(image_id * 64)
        load = Load(serving(200, answer(text, context_tokens)), known=[image])
        load.request("known, pixels")
        (reply,) = load.replies
        assert reply.outcome == outcome, (text, context_tokens, image_id)
        assert (reply.hit, reply.degraded) == (context_tokens > 0, context_tokens == 0)
        assert bool(reply.detail) == (outcome == "wrong")


def test_an_answer_that_began_before_the_store_was_disturbed_does_not_prove_that_it_has_the_context(
    serving, monkeypatch
):
    """It may have taken longer than a restart: only a lookup since then counts."""
    monkeypatch.setattr(load_module, "STREAMED", 0)
    image = known()

    def disturb() -> None:
        load.undisturbed_since = time.monotonic()

    load = Load(serving(200, answer("Three.", 5), disturb), known=[image])
    load.request("known, by id")
    assert -math.inf < image.last_hit < load.undisturbed_since
    for is_excused in (True, False):
        image.last_hit = -math.inf if is_excused else math.inf
        load.replies.clear()
        serving(404, error("context_not_found"))
        load.request("known, by id")
        assert [reply.unexplained for reply in load.replies] == [not is_excused]
