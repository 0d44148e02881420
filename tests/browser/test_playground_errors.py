"""What goes wrong is told to the person, in an alert that says what to do; trying again then works."""

import contextlib
import io
import json
import re
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from lookonce_server.auth import tenants

from ..support.http_requests import question_about
from ..support.pictures import png
from ..support.server_process import LookonceServer
from .acting import ask, failure, figures, file, pick_file, send, wait_for_answer, wait_for_context
from .chromium import Visit

CHAT = "/v1/chat/completions"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><rect width="10" height="10"/></svg>'
MAX_BYTES = 40_000


@pytest.fixture(scope="module")
def small_server() -> Iterator[LookonceServer]:
    """One pass at a time, and no large images."""
    with LookonceServer("--max-queue", "1", "--max-image-bytes", str(MAX_BYTES)) as running:
        yield running


def expect_alert(page: Page, *texts: str) -> None:
    for text in texts:
        expect(page.get_by_role("alert")).to_contain_text(text)


def try_again(page: Page) -> None:
    page.get_by_role("alert").get_by_role("button", name="Try again").click()


def noise(side: int) -> bytes:
    """A picture that does not get smaller."""
    found = io.BytesIO()
    Image.effect_noise((side, side), 100).save(found, "PNG")
    return found.getvalue()


def test_what_is_no_picture_is_refused_before_it_is_sent(visit):
    page = visit.open()
    page.locator("#file").set_input_files(file("notes.txt", b"no picture", "text/plain"))
    expect_alert(page, "notes.txt is no picture that this browser can show.")
    assert not visit.asked("/v1/contexts")
    pick_file(page, 401)
    expect(page.get_by_role("alert")).to_be_empty()


def test_what_the_server_cannot_read_is_refused_by_it(visit):
    page = visit.open()
    visit.expect_complaint("status of 400")
    page.locator("#file").set_input_files(file("drawing.svg", SVG, "image/svg+xml"))
    expect_alert(page, "no image of a known format (PNG, JPEG")


def test_a_picture_that_fails_leaves_the_one_before(visit):
    page = visit.open()
    pick_file(page, 402)
    page.locator("#file").set_input_files(file("notes.txt", b"no picture", "text/plain"))
    expect_alert(page, "notes.txt")
    ask(page, "What is there?")
    assert figures(page, "context")["cache"] == "hit (memory)"
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("alert")).to_be_empty()


def test_too_large_a_picture_is_named_with_the_limit(visiting, small_server):
    visit = visiting(small_server)
    page = visit.open()
    page.locator("#file").set_input_files(file("large.png", noise(300), "image/png"))
    expect_alert(page, "large.png has ", " KiB; this server takes pictures of up to 39.1 KiB.")
    assert not visit.asked("/v1/contexts")


@contextlib.contextmanager
def busy(server: LookonceServer) -> Iterator[None]:
    """The server's only place is taken by an answer that goes on and on."""
    # Without its end token the model never ends an answer by itself.
    body = question_about(None, "xyzzy", max_tokens=1024, logit_bias={"2": -100}, stream=True)
    with server.http() as client, client.stream("POST", CHAT, json=body):
        server.wait_for("queue_depth", 1)
        yield
    server.wait_for("queue_depth", 0)


def test_a_busy_server_is_asked_again(visiting, small_server):
    visit = visiting(small_server)
    page = visit.open()
    pick_file(page, 403)
    visit.expect_complaint("status of 429")
    with busy(small_server):
        page.get_by_label("Your question").fill("What is there?")
        page.get_by_role("button", name="Ask").click()
        expect(failure(page)).to_contain_text("The server asks to wait a second.")
    failure(page).get_by_role("button", name="Try again").click()
    wait_for_answer(page, "What is there?")
    expect(page.locator("#answers > li")).to_have_count(1)
    expect(page.get_by_role("alert")).to_be_empty()


def test_a_server_that_is_away_is_said_to_be(visiting):
    with LookonceServer() as server:
        visit = visiting(server)
        page = visit.open()
        server.kill()
        visit.expect_complaint("ERR_CONNECTION|ERR_INCOMPLETE")
        send(page, "What is there?")
        expect(failure(page)).to_contain_text("The server does not answer. Is it still running?")
        expect(page.locator(".way.context .text")).to_have_text("No answer")
        expect(page.locator(".way.full .text")).to_have_text("Not asked yet")
        said = page.get_by_role("status").last
        expect(said).to_contain_text("No answer to: What is there? The server does not answer.")
        failure(page).get_by_role("button", name="Try again").click()
        expect(failure(page)).to_contain_text("The server does not answer.")
        page.locator("#scenes button").nth(1).click()
        expect_alert(page, "The server does not answer.")


ENGINE_FAILED = '{"error": {"message": "The engine <b>died</b>.", "type": "server_error", "code": "engine_error"}}'
CHUNK = '{"choices": [{"index": 0, "delta": {"content": "a sm"}}]}'


# No real engine fails here on demand, and no proxy stands before the server: these replies are made up.
@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ({"status": 500, "body": ENGINE_FAILED}, "The engine <b>died</b>."),
        ({"status": 502, "body": "<html>Bad gateway</html>"}, "The server answered 502."),
        ({"status": 200, "body": f"data: {CHUNK}\n\ndata: {ENGINE_FAILED}\n\n"}, "The engine <b>died</b>."),
        ({"status": 200, "body": f"data: {CHUNK}\n\n"}, "The server does not answer."),
    ],
)
def test_an_answer_that_fails_is_asked_for_again(visit, reply, told):
    page = visit.open()
    pick_file(page, 404)
    if reply["status"] != 200:
        visit.expect_complaint(f"status of {reply['status']}")
    page.route(f"**{CHAT}", lambda route: route.fulfill(**reply), times=1)
    send(page, "What is there?")
    send(page, "How many objects are there?")
    wait_for_answer(page, "How many objects are there?")  # what fails is not in the way of the next question
    failed = page.locator("#answers > li").last
    expect(failed.locator(".failure:visible")).to_contain_text(told)
    failed.get_by_role("button", name="Try again").click()
    expect(failed.locator(".way.full [data-figure=total]")).to_have_text(re.compile(r"\d"))
    expect(page.locator(".failure:visible")).to_have_count(0)
    expect(page.locator("#answers > li")).to_have_count(2)
    expect(page.get_by_role("alert")).to_be_empty()


def test_a_describe_pass_that_fails_is_tried_again(visit):
    page = visit.open()
    error = json.dumps({"type": "error", **json.loads(ENGINE_FAILED)})
    failed = f'data: {{"type": "context.queued"}}\n\ndata: {error}\n\n'
    page.route("**/v1/contexts", lambda route: route.fulfill(status=200, body=failed), times=1)
    page.locator("#file").set_input_files(file("one.png", png(405), "image/png"))
    expect_alert(page, "The engine <b>died</b>.")
    expect(page.locator("#question")).to_be_disabled()
    try_again(page)
    wait_for_context(page)


@pytest.fixture(scope="module")
def key() -> str:
    return tenants.new_key()


@pytest.fixture(scope="module")
def locked_server(key, tmp_path_factory) -> Iterator[LookonceServer]:
    """A server with one API key."""
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(f'[tenants]\nacme = ["sha256:{tenants.key_hash(key)}"]\n', encoding="utf-8")
    with LookonceServer("--api-keys", str(keys)) as running:
        yield running


def give_key(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_label("API key").press("Enter")


def test_a_key_is_asked_for_and_stays_in_memory(visiting, locked_server, key):
    visit: Visit = visiting(locked_server)
    visit.expect_complaint("status of 401")
    page = visit.open(waits=False)
    expect(page.get_by_label("API key")).to_be_focused()  # wanted before the first scene is described
    give_key(page, "lo-wrong")
    expect(page.locator("#key-why")).to_contain_text("does not know that key")
    expect(page.get_by_label("API key")).to_have_value("")
    give_key(page, key)
    wait_for_context(page)
    expect(page.get_by_label("API key")).to_be_hidden()
    ask(page, "What is there?")
    page.locator(".way.context").get_by_role("button", name="Copy as code").click()
    for language in ("curl", "openai", "lookonce"):
        page.locator(".code").get_by_role("button", name=language, exact=True).click()
        expect(page.locator(".code pre")).to_contain_text("LOOKONCE_API_KEY")
        assert key not in page.content()
    assert all(request.headers["authorization"] == f"Bearer {key}" for request in visit.asked(CHAT))
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]") == [
        0,
        0,
        "",
        f"{locked_server.url}/",
    ]
    page.reload()
    expect(page.get_by_label("API key")).to_be_focused()
