"""The playground, from a picture to the chart: what it shows is what the server said."""

import re
from itertools import pairwise

import pytest
from playwright.sync_api import Page, expect

from ..support.pictures import png
from .acting import answer, ask, figures, file, pick_file, pick_scene, wait_for_answer, wait_for_context
from .chromium import Visit

CONTEXTS, CHAT = "/v1/contexts", "/v1/chat/completions"
KEPT = "#overlay .kept rect"
# Every text that the description has been, in order.
WATCH = """() => {
  window.texts = [];
  new MutationObserver((records) => {
    for (const record of records) for (const node of record.addedNodes) texts.push(node.data);
  }).observe(document.getElementById("description"), { childList: true });
}"""
# Hands the page a file as a drop or a paste does.
HAND_OVER = """([how, name, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  const event = how === "drop"
    ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
  document.querySelector("h1").dispatchEvent(event);
}"""


def made(visit: Visit, index: int = -1) -> dict:
    """The context of one of the page's requests, as the server told of it when it was there."""
    *_, completed = visit.events(CONTEXTS)[index]
    assert completed["type"] == "context.completed"
    return completed["context"]


def told(events: list[dict]) -> dict:
    """What the events of an answer come to."""
    return {
        "text": "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"]),
        "usage": events[-1]["usage"],
        "lookonce": [e["lookonce"] for e in events if "lookonce" in e][-1],
    }


def sums(page: Page) -> tuple[int, int]:
    """Prompt tokens run in all, from the context and by full passes."""
    context, full = (page.locator(f"#{way}-sum").inner_text() for way in ("context", "full"))
    return int(context.replace(",", "")), int(full.replace(",", ""))


def test_a_scene_is_described_while_one_watches(visit):
    page = visit.open()
    page.evaluate(WATCH)
    pick_file(page, 300)
    texts = page.evaluate("texts")[1:]  # after what stands there before the first word
    assert len(texts) > 5
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts[:-1]))
    types = [event["type"] for event in visit.events(CONTEXTS)[0]]
    assert types[:2] == ["context.queued", "context.describing"]
    context = made(visit)
    assert page.locator("#description").inner_text() == context["description"]
    assert page.locator("#progress").inner_text().startswith("Looked at in")


def test_what_is_kept_is_marked_in_the_picture(visit, server):
    page = visit.open()
    pick_file(page, 301)
    context = made(visit)
    tokens = server.get(f"{CONTEXTS}/{context['id']}/tokens").json()
    rows, columns = tokens["grid"]
    marked = page.locator(KEPT).evaluate_all("cells => cells.map((c) => [c.x.baseVal.value, c.y.baseVal.value])")
    assert [int(y) * columns + int(x) for x, y in marked] == tokens["kept"]
    assert len(marked) == context["kept_tokens"]
    assert page.locator("#overlay").get_attribute("viewBox") == f"0 0 {columns} {rows}"
    picture, overlay = page.locator("#image").bounding_box(), page.locator("#overlay").bounding_box()
    assert picture == overlay
    facts = {one.get_attribute("data-fact"): one.inner_text() for one in page.locator("#facts dd").all()}
    assert facts == {
        "image": f"{context['image_tokens']} tokens",
        "kept": f"{context['kept_tokens']} (5%)",
        "context": f"{context['tokens']} tokens, with the prompt's",
        "bytes": f"{context['bytes'] / 1024:.1f} KiB, int8",
    }


def test_the_attention_can_be_seen_instead(visit, server):
    page = visit.open()
    pick_file(page, 301)
    scores = server.get(f"{CONTEXTS}/{made(visit)['id']}/tokens").json()["scores"]
    page.get_by_label("Attention").check()
    heat = page.locator("#overlay .heat rect")
    expect(heat).to_have_count(len(scores))
    expect(heat.first).to_be_visible()
    expect(page.locator(".veil")).to_be_hidden()
    shades = heat.evaluate_all("cells => cells.map((cell) => Number(cell.getAttribute('fill-opacity')))")
    assert max(range(len(scores)), key=scores.__getitem__) == max(range(len(shades)), key=shades.__getitem__)
    assert sorted(shades) == [shades[i] for i in sorted(range(len(scores)), key=scores.__getitem__)]
    page.get_by_label("Picture", exact=True).check()
    expect(heat.first).to_be_hidden()
    expect(page.locator(KEPT).first).to_be_hidden()


def test_answers_and_their_figures_are_the_servers(visit, server):
    page = visit.open()
    pick_scene(page)
    drawn = page.locator("#scenes img").first.get_attribute("src").removesuffix(".png")
    right = {one["text"]: one["answer"] for one in server.get(f"/{drawn}.json").json()}
    suggestions = page.locator("#suggestions button")
    assert suggestions.all_inner_texts() == list(right)
    questions = list(right)[:3]
    for question in questions:
        suggestions.filter(has_text=question).click()
        wait_for_answer(page, question)
    assert [row.inner_text() for row in page.locator("#answers h3").all()] == questions[::-1]
    answers = [told(events) for events in visit.events(CHAT)]
    for i, question in enumerate(questions):
        row = len(questions) - 1 - i
        context, full = answers[2 * i : 2 * i + 2]
        assert (context["lookonce"]["cache"], full["lookonce"]["cache"]) == ("hit", "bypass"), question
        for way, said in (("context", context), ("full", full)):
            mark = "right" if said["text"] == right[question] else f"wrong: {right[question]}"
            assert answer(page, way, row) == f"{said['text']} {mark}"
            shown = figures(page, way, row)
            assert shown.keys() == {"first", "total", "prompt", "saved", "cache"}
            assert shown["prompt"] == str(said["usage"]["prompt_tokens"])
            assert shown["saved"] == str(said["lookonce"]["tokens_saved"])
            tier = said["lookonce"]["tier"]
            assert shown["cache"] == said["lookonce"]["cache"] + (f" ({tier})" if tier else "")
            assert all(re.fullmatch(r"\d+ ms|\d+\.\d+ s", shown[name]) for name in ("first", "total"))


def test_no_picture_is_sent_with_a_question_to_the_context(visit):
    page = visit.open()
    pick_file(page, 302)
    ask(page, "How many objects are there?")
    context, full = (request.post_data_json for request in visit.asked(CHAT))
    assert context["messages"][0]["content"][0]["image_url"]["url"] == f"lookonce:{made(visit)['id']}"
    assert context["lookonce"] == {}
    assert full["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert full["lookonce"] == {"mode": "full_image"}


def test_the_chart_grows_with_each_question(visit):
    page = visit.open()
    pick_file(page, 303)
    context = made(visit)
    looked = context["image_tokens"] + context["tokens"] - context["kept_tokens"]
    assert sums(page) == (looked, 0)
    run = {"context": looked, "full": 0}
    for count, question in enumerate(("What is there?", "How many objects are there?"), start=1):
        ask(page, question)
        expect(page.locator("#chart .context circle")).to_have_count(count + 1)
        expect(page.locator("#chart .full circle")).to_have_count(count + 1)
        for way, events in zip(run, visit.events(CHAT)[-2:], strict=True):
            usage = told(events)["usage"]
            run[way] += usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        expect(page.locator("#full-sum")).to_have_text(f"{run['full']:,}")
        assert sums(page) == (run["context"], run["full"])
    page.get_by_label("Time").check()
    expect(page.locator("#full-sum")).to_have_text(re.compile(r"^\d+ ms$|^\d+\.\d+ s$"))


def test_the_full_pass_can_be_left_out(visit):
    page = visit.open()
    pick_file(page, 304)
    page.get_by_label("Run the full pass too").uncheck()
    ask(page, "What is there?")
    assert len(visit.asked(CHAT)) == 1
    expect(page.locator(".way.full")).to_have_count(0)
    expect(page.locator("#chart .full circle")).to_have_count(1)


def test_the_slider_shows_what_would_be_kept_and_then_makes_it(visit, server):
    page = visit.open()
    pick_file(page, 305)
    first = made(visit)
    slider = page.get_by_label("Share kept (K)")
    assert slider.get_attribute("aria-valuetext") == f"5%: {first['kept_tokens']} of {first['image_tokens']} tokens"
    # Held: every step is a preview, and nothing is made.
    for share in ("7%", "10%", "15%", "20%"):
        slider.evaluate("(it) => { it.value++; it.dispatchEvent(new Event('input', { bubbles: true })) }")
        expect(page.locator("#share-said")).to_have_text(re.compile(rf"^{share}: \d+ of"))
    would = server.get(f"{CONTEXTS}/{first['id']}/tokens?retention=0.2").json()["kept"]
    expect(page.locator(KEPT)).to_have_count(len(would))
    assert len(visit.asked(CONTEXTS)) == 1
    # Let go.
    slider.evaluate("(it) => it.dispatchEvent(new Event('change', { bubbles: true }))")
    expect(page.locator("#facts [data-fact=kept]")).to_have_text(f"{len(would)} (20%)")
    second = made(visit)
    assert (second["retention"], second["kept_tokens"]) == (0.2, len(would))
    assert second["id"] != first["id"]
    expect(page.locator(KEPT)).to_have_count(len(would))
    ask(page, "What is there?")
    said = told(visit.events(CHAT)[0])["lookonce"]
    assert (said["cache"], said["context_id"], said["context_tokens"]) == ("hit", second["id"], second["tokens"])


def test_what_was_lost_is_there_again_when_more_is_kept(visit):
    """Of scene 112, the last of those that the page shows first."""
    page = visit.open()
    page.get_by_label("Run the full pass too").uncheck()
    pick_scene(page, 5)
    assert page.locator("#image").get_attribute("alt") == "Scene 112"
    count = page.locator("#suggestions button", has_text="How many squares are in the image?")
    count.click()
    wait_for_answer(page, count.inner_text())
    assert answer(page, "context") == "1 wrong: 2"
    slider = page.get_by_label("Share kept (K)")
    slider.press("End")
    expect(page.locator("#facts [data-fact=kept]")).to_have_text(re.compile(r"\(25%\)"))
    count.click()
    expect(page.locator("#answers > li").first.locator(".right")).to_be_visible()
    assert answer(page, "context") == "2 right"


def test_a_picture_that_was_looked_at_before_costs_nothing(visiting, server):
    first = visiting(server)
    pick_file(first.open(), 306)
    again = visiting(server)
    page = again.open()
    pick_file(page, 306)
    assert again.events(CONTEXTS)[0][-1]["created"] is False
    assert page.locator("#progress").inner_text().startswith("It was looked at before: nothing was run.")
    assert page.locator("#description").inner_text() == made(first)["description"]
    assert sums(page) == (0, 0)


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(visit, how):
    page = visit.open()
    page.evaluate(HAND_OVER, [how, "mine.png", list(png(307))])
    wait_for_context(page)
    assert page.locator("#image").get_attribute("alt") == "mine.png"
    assert made(visit)["image_tokens"] == page.locator("#overlay .heat rect").count()


def test_another_picture_takes_the_place_of_all_that_was_there(visit):
    page = visit.open()
    pick_scene(page, 0)
    ask(page, "What is there?")
    before = made(visit)
    page.locator("#scenes button").nth(1).click()
    expect(page.locator("#answers > li")).to_have_count(0)
    wait_for_context(page)
    after = made(visit)
    assert after["id"] != before["id"]
    expect(page.locator("#description")).to_have_text(after["description"])
    ask(page, "What is there?")
    assert told(visit.events(CHAT)[-2])["lookonce"]["context_id"] == after["id"]
    expect(page.locator("#chart .full circle")).to_have_count(2)


def test_the_last_of_several_pictures_is_the_one(visit):
    page = visit.open()
    for index in (0, 1, 2):
        page.locator("#scenes button").nth(index).click()
    shown = page.locator("#scenes img").nth(2).get_attribute("alt")
    expect(page.locator("#image")).to_have_attribute("alt", shown)
    wait_for_context(page)
    expect(page.locator("#description")).to_have_text(made(visit)["description"])


def test_questions_wait_for_their_turn(visit):
    page = visit.open()
    pick_file(page, 308)
    field = page.get_by_label("Your question")
    for question in ("What is there?", "How many objects are there?"):
        field.fill(question)
        field.press("Enter")
    wait_for_answer(page, "How many objects are there?")
    caches = [told(events)["lookonce"]["cache"] for events in visit.events(CHAT)]
    assert caches == ["hit", "bypass", "hit", "bypass"]
    asked = [request.post_data_json["messages"][0]["content"][1]["text"] for request in visit.asked(CHAT)]
    assert asked == ["What is there?"] * 2 + ["How many objects are there?"] * 2


def test_a_context_that_is_gone_is_made_again(visit, server):
    page = visit.open()
    pick_file(page, 309)
    visit.expect_complaint("status of 404")
    with server.http() as client:
        assert client.delete(f"{CONTEXTS}/{made(visit)['id']}").json()["deleted"]
    ask(page, "What is there?")
    assert len(visit.asked(CONTEXTS)) == 2
    assert figures(page, "context")["cache"] == "hit (memory)"
    expect(page.get_by_role("alert")).to_be_empty()


def test_other_scenes_are_drawn(visit):
    page = visit.open()
    images = page.locator("#scenes img")
    before = [image.get_attribute("src") for image in images.all()]
    page.get_by_role("button", name="Other scenes").click()
    after = [image.get_attribute("src") for image in images.all()]
    assert not set(before) & set(after)
    for image in images.all():
        expect(image).to_have_js_property("naturalWidth", 112)


def test_markup_in_a_name_or_a_question_is_only_text(visit):
    page = visit.open()
    name = "<img src=x onerror=alert(1)>.png"
    page.locator("#file").set_input_files(file(name, png(310), "image/png"))
    wait_for_context(page)
    ask(page, "<b>What</b> is there?")
    expect(page.locator("#answers b")).to_have_count(0)
    assert page.locator("#image").get_attribute("alt") == name
