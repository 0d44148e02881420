"""The monitor in a real browser: its figures are the server's, live, and nobody's questions."""

import re

import pytest
from playwright.sync_api import Page, expect

from ..support.pictures import find_question
from ..support.server_process import MODEL
from .acting import ask_server, look_once_and_ask
from .chromium import CONTRASTS, PHONE

SEED = 611


def figure(page: Page, name: str):
    return page.locator(f"[data-figure={name}]")


def test_its_figures_are_the_servers_and_follow_it(visit, server):
    page = visit.open("/monitor")
    expect(page.locator("#scope")).to_contain_text(f"One process, serving {MODEL}, since its start")
    look_once_and_ask(server, SEED, 2)
    metrics = server.metrics(
        hits=("requests_total", {"cache": "hit"}),
        misses=("requests_total", {"cache": "miss"}),
        saved=("prompt_tokens_saved_total", {}),
    )
    asked = metrics["hits"] + metrics["misses"]
    expect(figure(page, "rate-note")).to_have_text(f"{metrics['hits']:,.0f} of {asked:,.0f} questions about images")
    expect(figure(page, "tokens")).to_have_text(f"{metrics['saved']:,.0f}")
    expect(figure(page, "hit-first")).to_have_text(re.compile(r"\d m?s"))
    expect(figure(page, "time")).to_have_text(re.compile(r"\d m?s|\d min"))
    stats = server.get("/v1/contexts/stats").json()
    expect(figure(page, "contexts")).to_have_text(f"{stats['contexts']:,}")
    rows = page.locator("#recent tr")
    expect(rows.nth(0)).to_contain_text("hit")
    expect(rows.nth(2)).to_contain_text("miss")
    count = page.locator("#dots circle").count()
    assert count == rows.count()
    ask_server(server, SEED)
    expect(figure(page, "rate-note")).to_contain_text(f"{metrics['hits'] + 1:,.0f} of")
    assert find_question(SEED) not in page.content()


def test_a_server_that_does_not_answer_is_told(visit, server):
    page = visit.open("/monitor")
    expect(page.locator("#scope")).to_contain_text("One process")
    visit.expect_complaint("ERR_|Failed to load")
    page.route("**/monitor/data.json", lambda route: route.abort())
    expect(page.locator("#away")).to_contain_text("The server does not answer.")
    page.unroute("**/monitor/data.json")
    expect(page.locator("#away")).to_be_hidden()


def test_figures_that_come_from_several_servers_are_called_so(visit, server):
    page = visit.open("/monitor")
    expect(page.locator("#scope")).to_contain_text("One process")
    expect(page.locator("#several")).to_be_hidden()
    other = server.get("/monitor/data.json").json()
    page.route("**/monitor/data.json", lambda route: route.fulfill(json=other | {"started_at": 1}))
    expect(page.locator("#several")).to_contain_text("Several servers answer at this address")


def test_with_keys_it_asks_for_one(visit, server):
    """The server of these tests has none: its answers without one are those of one that has."""
    page = visit.page
    visit.expect_complaint("401")

    def guarded(route):
        if route.request.headers.get("authorization") == "Bearer right":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": {"message": "No.", "code": "invalid_api_key"}})

    page.route("**/monitor/data.json", guarded)
    visit.open("/monitor")
    for key in ("wrong", "right"):
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Use it").click()
    expect(page.locator("#scope")).to_contain_text("One process")
    expect(page.locator("#key-form")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_text_stands_out_and_nothing_is_wider_than_a_phone(visiting, server, scheme):
    look_once_and_ask(server, {"light": 621, "dark": 622}[scheme])
    page = visiting(server, color_scheme=scheme, **PHONE).open("/monitor")
    expect(page.locator("#dots circle").first).to_be_visible()
    faint = [found for found in page.evaluate(CONTRASTS) if found["contrast"] < 4.5]
    assert faint == []
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    tree = page.locator("main").aria_snapshot()
    for name in ("Hit rate", "Tokens saved", "Time saved", "First token", "Contexts", "At work", "Latest questions"):
        assert f'heading "{name}"' in tree
