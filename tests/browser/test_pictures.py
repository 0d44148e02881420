"""Several pictures: each is looked at once, and questions are answered from what was kept of all of them."""

import re

import pytest
from playwright.sync_api import Page, expect

from ..support.pictures import png
from .acting import WHOLE, answer, ask, figures, file, pick_file, wait_for_answer
from .chromium import PHONE, Visit

CONTEXTS, CHAT = "/v1/contexts", "/v1/chat/completions"
STRIP = "#pictures > li"


def choose(page: Page, *seeds: int) -> None:
    """Choose files, and wait until all of their pictures have been looked at."""
    page.locator("#file").set_input_files([file(f"{seed}.png", png(seed), "image/png") for seed in seeds])
    wait_for_all(page, len(seeds))


def wait_for_all(page: Page, count: int) -> None:
    states = page.locator(f"{STRIP} .state")
    expect(states).to_have_count(count)
    for i in range(count):
        expect(states.nth(i)).to_have_text(re.compile("looked at now|known before"))
    expect(page.locator("#progress")).to_have_text(WHOLE)


def ids(visit: Visit) -> list[str]:
    """The contexts that the page has made, in order."""
    return [events[-1]["context"]["id"] for events in visit.events(CONTEXTS)]


def urls(visit: Visit, index: int) -> list[str]:
    """The images of one of the page's questions."""
    *images, text = visit.asked(CHAT)[index].post_data_json["messages"][0]["content"]
    assert text["type"] == "text"
    return [part["image_url"]["url"] for part in images]


def test_questions_are_asked_across_all_pictures(visit):
    page = visit.open()
    choose(page, 701, 702, 703)
    ask(page, "How many objects are there in all images?")
    assert urls(visit, 0) == [f"lookonce:{context_id}" for context_id in ids(visit)]
    assert [url[:22] for url in urls(visit, 1)] == 3 * ["data:image/png;base64,"]
    context, full = figures(page, "context"), figures(page, "full")
    assert (context["cache"], context["pictures"]) == ("hit (memory)", "all 3 hit")
    assert (full["cache"], full["pictures"]) == ("bypass", "all 3 bypass")
    said = [event for event in visit.events(CHAT)[0] if event.get("lookonce")][-1]
    assert context["saved"] == str(said["lookonce"]["tokens_saved"])
    assert len(said["lookonce"]["images"]) == 3
    suggested = page.locator("#suggestions button").first.inner_text()
    page.locator("#suggestions button").first.click()
    wait_for_answer(page, suggested)
    assert urls(visit, 2) == urls(visit, 0)


def test_each_picture_has_its_kept_tokens_and_can_be_shown_large(visit, server):
    page = visit.open()
    choose(page, 704, 705)
    contexts = [events[-1]["context"] for events in visit.events(CONTEXTS)]
    for i, context in enumerate(contexts):
        tokens = server.get(f"{CONTEXTS}/{context['id']}/tokens").json()
        _, columns = tokens["grid"]
        cells = page.locator(STRIP).nth(i).locator(".kept rect")
        expect(cells.first).to_be_visible()
        marked = cells.evaluate_all("cells => cells.map((c) => [c.x.baseVal.value, c.y.baseVal.value])")
        assert [int(y) * columns + int(x) for x, y in marked] == tokens["kept"]
        page.locator(STRIP).nth(i).locator(".select").click()
        expect(page.locator("#image")).to_have_attribute("alt", f"{704 + i}.png")
        expect(page.locator("#description")).to_have_text(context["description"])
        expect(page.locator("#overlay .kept rect")).to_have_count(context["kept_tokens"])
        expect(page.locator(STRIP).nth(i).locator(".select")).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Attention").check()
    expect(page.locator(STRIP).first.locator(".heat rect").first).to_be_visible()
    expect(page.locator(STRIP).first.locator(".veil")).to_be_hidden()


def test_pictures_are_added_and_removed(visit):
    page = visit.open()
    pick_file(page, 706)
    expect(page.locator("#pictures")).to_be_hidden()
    ask(page, "What is there?")
    page.get_by_label("Add to these pictures").check()
    page.locator("#scenes button").first.click()
    wait_for_all(page, 2)
    expect(page.locator("#answers > li")).to_have_count(1)
    ask(page, "Which image has more objects?")
    assert urls(visit, 2) == [f"lookonce:{context_id}" for context_id in ids(visit)]
    page.get_by_role("button", name="Remove picture 1: 706.png").click()
    expect(page.locator("#pictures")).to_be_hidden()
    expect(page.locator("#image")).to_have_attribute("alt", re.compile("Scene"))
    ask(page, "What is there?")
    assert urls(visit, 4) == [f"lookonce:{ids(visit)[1]}"]
    page.get_by_label("Add to these pictures").uncheck()
    pick_file(page, 707)
    expect(page.locator("#answers > li")).to_have_count(0)
    expect(page.locator("#image")).to_have_attribute("alt", "707.png")


def test_pictures_added_quickly_come_in_the_order_in_which_they_were_asked_for(visit):
    page = visit.open()
    page.get_by_label("Add to these pictures").check()
    scenes = page.locator("#scenes button")
    for index in (2, 3, 1):
        scenes.nth(index).click()
    wait_for_all(page, 4)
    names = [page.locator("#scenes img").nth(index).get_attribute("alt") for index in (0, 2, 3, 1)]
    labels = [button.get_attribute("aria-label") for button in page.locator(f"{STRIP} .select").all()]
    assert [label.split(",")[0] for label in labels] == [f"Picture {i}: {name}" for i, name in enumerate(names, 1)]


def test_each_picture_says_whether_it_was_known(visiting, server):
    first = visiting(server)
    pick_file(first.open(), 708)
    page = visiting(server).open()
    choose(page, 708, 709)
    assert page.locator(f"{STRIP} .state").all_inner_texts() == ["known before", "looked at now"]
    names = [button.get_attribute("aria-label") for button in page.locator(f"{STRIP} .select").all()]
    assert re.fullmatch(r"Picture 1: 708\.png, known before, \d+ of 196 tokens kept", names[0])
    assert re.fullmatch(r"Picture 2: 709\.png, looked at now, \d+ of 196 tokens kept", names[1])


def test_the_slider_is_of_all_pictures(visit):
    page = visit.open()
    choose(page, 710, 711)
    slider = page.get_by_label("Share kept (K)")
    slider.press("End")
    expect(page.locator("#facts [data-fact=kept]")).to_have_text(re.compile(r"\(25%\)"))
    page.locator(STRIP).nth(1).locator(".select").click()
    expect(page.locator("#facts [data-fact=kept]")).to_have_text(re.compile(r"\(25%\)"))
    ask(page, "What is there?")
    assert urls(visit, 0) == [f"lookonce:{context_id}" for context_id in ids(visit)[2:]]


def test_one_context_that_is_gone_is_made_again(visit, server):
    page = visit.open()
    choose(page, 712, 713)
    visit.expect_complaint("status of 404")
    with server.http() as client:
        assert client.delete(f"{CONTEXTS}/{ids(visit)[1]}").json()["deleted"]
    ask(page, "What is there?")
    assert [events[-1]["created"] for events in visit.events(CONTEXTS)] == [True, True, False, True]
    assert figures(page, "context")["pictures"] == "all 2 hit"
    expect(page.get_by_role("alert")).to_be_empty()


def test_more_pictures_than_the_server_takes_are_refused(visit, server):
    limit = server.get("/playground/settings.json").json()["max_images"]
    page = visit.open()
    pick_file(page, 714)
    page.locator("#file").set_input_files([file(f"{i}.png", png(714), "image/png") for i in range(limit + 1)])
    expect(page.get_by_role("alert")).to_contain_text(f"This server takes up to {limit} pictures in a question.")
    expect(page.locator("#image")).to_have_attribute("alt", "714.png")


def test_one_file_of_several_that_is_no_picture_is_named_and_none_is_taken(visit):
    page = visit.open()
    pick_file(page, 715)
    page.locator("#file").set_input_files(
        [file("716.png", png(716), "image/png"), file("notes.txt", b"no picture", "text/plain")]
    )
    expect(page.get_by_role("alert")).to_contain_text("notes.txt is no picture that this browser can show.")
    expect(page.locator("#image")).to_have_attribute("alt", "715.png")


def test_whole_pictures_that_do_not_fit_are_told_and_the_answer_is_there(visit):
    """The server's own refusal of a prompt that is too long, which takes more pictures than are quick to look at."""
    page = visit.open()
    choose(page, 717, 718)
    visit.expect_complaint("status of 400")
    error = '{"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}'

    def refuse_pixels(route) -> None:
        if "data:image" in (route.request.post_data or ""):
            route.fulfill(status=400, body=error)
        else:
            route.continue_()

    page.route(f"**{CHAT}", refuse_pixels)
    page.get_by_label("Your question").fill("What is there?")
    page.get_by_label("Your question").press("Enter")
    expect(page.locator(".way.full .text")).to_have_text("The whole pictures are longer than this model takes.")
    assert answer(page, "context") != "…"
    expect(page.get_by_role("alert")).to_be_empty()


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_by_keyboard_and_within_the_screen(visiting, server, options):
    page = visiting(server, **options).open()
    choose(page, 719, 720, 721)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    page.locator(f"{STRIP} .select").first.focus()
    for name in ("Remove picture 1", "Picture 2", "Remove picture 2"):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert focused.startswith(name)
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    expect(page.locator(STRIP)).to_have_count(2)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Picture 2: 721.png")
    expect(page.get_by_role("status").last).to_have_text("Picture 2 is removed: 720.png.")
    page.keyboard.press("Space")
    expect(page.locator("#image")).to_have_attribute("alt", "721.png")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
