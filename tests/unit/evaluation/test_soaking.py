"""What the soak counts, and what it takes for right."""

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from lookonce import Answer
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.soaking import load
from lookonce_evaluation.soaking.load import Asker, Known, Shared
from lookonce_evaluation.soaking.tally import KINDS, Reply, Tally, figures, table
from lookonce_evaluation.soaking.truth import Picture, Right, alike, png

RIGHT = Right(full="Two.", context="Three.")


def answer(text: str, context_tokens: int) -> Answer:
    facts = {"tier": None, "tokens_saved": 0, "context_id": "a" * 64, "prompt_tokens": 9, "cached_tokens": 0}
    return Answer(
        text,
        cache="hit" if context_tokens else "miss",
        context_tokens=context_tokens,
        completion_tokens=2,
        seconds=0.1,
        **facts,
    )


@pytest.mark.parametrize(
    ("text", "context_tokens", "is_right"), [("Two.", 0, True), ("Three.", 5, True), ("Two.", 5, False), ("", 0, False)]
)
def test_an_answer_is_right_by_the_way_it_came(text, context_tokens, is_right):
    assert RIGHT.is_met_by(answer(text, context_tokens)) == is_right


def test_the_same_pixels_are_a_new_image_each_time():
    (case,) = held_out(1)
    picture = Picture(case, {})
    assert picture.file() != picture.file()
    assert len(png(case)) > 0


def test_threads_that_draw_one_picture_at_once_make_images_of_their_own():
    """Pillow keeps what it is to write on the image: two threads must not save the same one at once."""
    picture = Picture(held_out(1)[0], {})
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: picture.file(), range(400)))
    assert len(set(files)) == 400
    assert all(b"Comment" in file for file in files)


def test_how_often_a_swapped_answer_would_pass():
    (case,) = held_out(1)
    pictures = [Picture(case, {"?": Right(full, context)}) for full, context in (("a", "x"), ("a", "y"), ("b", "z"))]
    assert alike(pictures) == pytest.approx((2 * 1 / 2) / 6)


def test_a_tally_counts_what_must_not_be():
    tally = Tally()
    tally.add(Reply("new image", "right", 0.1))
    tally.add(Reply("known, pixels", "right", 0.3, hit=True))
    tally.add(Reply("known, pixels", "wrong", 9.0, degraded=True, detail="what was said"))
    tally.add(Reply("known, by id", "refused", 9.0, unexplained=True))
    tally.add(Reply("list", "lost", 9.0))
    found = figures(tally.replies())
    counts = {"requests": 5, "answers": 3, "wrong": 1, "lost": 1, "refused clearly": 1, "unexplained": 1}
    assert found == counts | {"hits": 1, "degraded": 1} | {
        "p50_ms": pytest.approx(200),
        "p99_ms": pytest.approx(298),
        "longest_ms": pytest.approx(300),
    }
    assert [reply.outcome for reply in tally.bad()] == ["wrong", "lost"]
    assert len(table(tally)) == 1 + 5 + 1
    assert figures([])["p99_ms"] is None


# --- against a server that fails --------------------------------------------------------------------------------------


@pytest.fixture
def failing():
    """Starts a server that replies to everything with a status and a body, once it has done more, and gives its URL."""
    servers = []

    def start(status: int, body: bytes, meanwhile: Callable[[], None] = lambda: None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                self.do_GET()

            def do_GET(self):
                meanwhile()
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def error(code: str) -> bytes:
    return json.dumps({"error": {"message": "no", "type": "server_error", "param": None, "code": code}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "by_id", "by_pixels"),
    [
        (404, error("context_not_found"), "refused", "lost"),
        (503, error("store_unavailable"), "refused", "lost"),
        (500, error("internal_error"), "lost", "lost"),
        (503, b"a proxy's page", "lost", "lost"),
        (200, b"{}", "lost", "lost"),
        (200, b"", "lost", "lost"),
    ],
)
def test_only_a_clear_refusal_of_what_has_no_pixels_is_not_lost(failing, status, body, by_id, by_pixels):
    (case,) = held_out(1)
    picture = Picture(case, {"How many?": RIGHT})
    shared = Shared(failing(status, body), [picture], Tally())
    shared.known.append(Known(picture, picture.file(), "a" * 64))
    asker = Asker(shared, seed=0)
    for kind in KINDS[:3]:
        asker.request(kind)
    outcomes = {reply.kind: reply.outcome for reply in shared.tally.replies()}
    assert outcomes == {"new image": by_pixels, "known, pixels": by_pixels, "known, by id": by_id}


def test_an_answer_that_began_before_the_store_was_disturbed_does_not_prove_that_it_has_the_context(
    failing, monkeypatch
):
    """It may have taken longer than a restart: only a lookup since then counts."""
    image = Known(Picture(held_out(1)[0], {"How many?": RIGHT}), b"", "a" * 64)
    lookonce = {"cache": "hit", "context_tokens": 5, "context_id": "a" * 64, "tier": "redis", "tokens_saved": 1}
    choice = {"index": 0, "message": {"role": "assistant", "content": "Three."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    models = [{"id": "a model"}]  # which the client asks for first
    body = json.dumps({"data": models, "choices": [choice], "usage": usage, "lookonce": lookonce}).encode()
    monkeypatch.setattr(load, "STREAMED", 0)
    shared = Shared("", [image.picture], Tally())
    shared.url = failing(200, body, lambda: shared.calm.begin(0))
    shared.known.append(image)
    asker = Asker(shared, seed=0)
    asker._ask(image, "lookonce:" + image.context_id)
    assert -math.inf < image.last_hit < shared.calm.since
