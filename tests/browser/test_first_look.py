"""What is seen without scrolling or picking: a described scene, the newest answer, what is saved and what is lost."""

import re

import pytest
from playwright.sync_api import Page, expect

from ..support.server_process import MODEL, LookonceServer
from .acting import ask, pick_file, pick_scene, wait_for_answer, wait_for_context
from .chromium import Visit

CHAT = "/v1/chat/completions"
SIZES = {
    "large": {"viewport": {"width": 1920, "height": 1080}},
    "laptop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 664}, "has_touch": True, "is_mobile": True},
}
# Whether all elements are within what the window shows.
ALL_SEEN = """(selectors) => selectors.every((selector) => {
  const { top, left, bottom, right, height } = document.querySelector(selector).getBoundingClientRect();
  return height && top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth;
})"""
NEWEST = [f"#answers > li:first-child {part}" for part in ("h3", ".way.context .text", ".way.full .text")]


def see(page: Page, *selectors: str) -> None:
    """Wait until all of that can be seen at once: the page may still be scrolling."""
    page.wait_for_function(ALL_SEEN, arg=list(selectors))


def saved(page: Page, name: str) -> str:
    return page.locator(f"[data-saved={name}]").inner_text()


@pytest.mark.parametrize("size", SIZES)
def test_a_scene_is_described_and_answers_appear_where_one_looks(visiting, server, size):
    page = visiting(server, **SIZES[size]).open(waits=False)
    wait_for_context(page)
    see(page, "#model", "#scenes [aria-pressed=true]", "#frame", "#description", "#question")
    assert page.evaluate("scrollY") == 0
    suggested = page.locator("#suggestions button").first.inner_text()
    page.locator("#suggestions button").first.click()
    wait_for_answer(page, suggested)
    see(page, "#frame", "#ask-form", *NEWEST)
    page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    for question in ("What is there?", "How many objects are there?"):
        ask(page, question)
        see(page, "#frame", "#ask-form", *NEWEST)
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size]["viewport"]["width"]


def test_the_picture_stays_beside_a_long_list_of_answers(visiting, server):
    page = visiting(server, **SIZES["laptop"]).open()
    page.get_by_label("Run the full pass too").uncheck()
    for _ in range(5):
        ask(page, "What is there?")
    page.locator("#answers > li").last.scroll_into_view_if_needed()
    see(page, "#frame", "#answers > li:last-child")


def test_the_model_and_the_chosen_scene_are_named(visit):
    page = visit.open()
    expect(page.locator("#model")).to_have_text(MODEL)
    pressed = page.locator("#scenes [aria-pressed=true] img")
    expect(pressed).to_have_attribute("alt", "Scene 26")
    pick_scene(page, 2)
    expect(pressed).to_have_count(1)
    expect(pressed).to_have_attribute("alt", "Scene 9")
    pick_file(page, 801)
    expect(pressed).to_have_count(0)


def test_what_is_saved_is_one_number_and_what_is_lost_stands_beneath(visit):
    page = visit.open()
    assert not re.search(r"\d", saved(page, "share"))
    assert saved(page, "figures").startswith("Nothing is asked yet.")
    pick_scene(page, 5)
    texts = page.locator("#suggestions button").all_inner_texts()
    page.locator("#suggestions button", has_text="How many squares are in the image?").click()
    wait_for_answer(page, "How many squares are in the image?")
    expect(page.locator(".answer.differs .verdict")).to_contain_text("The answers differ;")
    assert saved(page, "lost") == (
        "1 of 1 answer differs from the full pass's. Right: contexts 0 of 1, full passes 1 of 1."
    )
    page.get_by_role("button", name=texts[0], exact=True).click()
    wait_for_answer(page, texts[0])
    contexts = [events[-1] for events in visit.events(CHAT)][::2]
    accounts = [next(e for e in events if "lookonce" in e) for events in visit.events(CHAT)[::2]]
    spared = sum(account["lookonce"]["tokens_saved"] for account in accounts)
    details = [event["usage"] for event in contexts]
    run = sum(usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] for usage in details)
    assert saved(page, "share") == f"{round(100 * spared / (spared + run))}%"
    assert saved(page, "figures").startswith(f"{spared} of {spared + run} tokens in 2 questions")
    assert re.match(r"\d of 2 answers differ from the full pass's\.", saved(page, "lost"))


def test_the_bundled_model_is_said_not_to_know_other_pictures(visit):
    page = visit.open()
    notice = page.get_by_text("knows drawn scenes only.")
    expect(notice).to_be_hidden()
    pick_file(page, 802)
    expect(notice).to_be_visible()
    pick_scene(page, 1)
    expect(notice).to_be_hidden()


def test_another_model_is_not_said_to_know_scenes_only(visit: Visit):
    """No other model is at hand that is quick to start: the reply is made up."""
    path = "**/playground/settings.json"
    visit.page.route(path, lambda route: route.fulfill(json=route.fetch().json() | {"bundled": False}))
    page = visit.open()
    pick_file(page, 803)
    expect(page.get_by_text("knows drawn scenes only.")).to_be_hidden()


def test_an_unsure_answer_is_flagged(visiting):
    """A margin that no answer keeps: the context's answer stands, since the pixels are not kept."""
    with LookonceServer("--fallback", "--fallback-margin", "1000") as server:
        page = visiting(server).open()
        ask(page, "What is there?")
        expect(page.locator(".way.context .flag")).to_have_text("The model was unsure.")
        expect(page.locator(".way.full .flag")).to_be_hidden()
        expect(page.locator("[data-saved=lost]")).to_contain_text("The model was unsure of 1.")
