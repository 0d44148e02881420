"""Moving pictures: their frames, what is kept of each, and questions about what happens."""

import io
import re

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from .acting import ask, figures, file, wait_for_answer, wait_for_context
from .chromium import Visit

CONTEXTS, CHAT = "/v1/contexts", "/v1/chat/completions"
COLORS = ("red", "green", "blue")


@pytest.fixture
def still(visiting, server) -> Visit:
    """A visit of somebody who wants no motion: a frame stays until another one is asked for."""
    return visiting(server, reduced_motion="reduce")


def animation(kind: str, *, colors: tuple[str, ...] = COLORS) -> bytes:
    result = io.BytesIO()
    frames = [Image.new("RGB", (60, 60), color) for color in colors]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(result, kind, save_all=True, append_images=frames[1:], duration=500, loop=0, **options)
    return result.getvalue()


def colors_shown(page: Page, count: int) -> list[list[int]]:
    """The colour in the middle of each frame, as the page shows them."""
    shown = []
    for number in range(1, count + 1):
        page.get_by_label("Frame", exact=True).fill(str(number))
        shown.append(
            page.evaluate("""async () => {
              const image = document.getElementById("image");
              await image.decode();
              const canvas = new OffscreenCanvas(1, 1);
              const context = canvas.getContext("2d");
              context.drawImage(image, 0, 0, 1, 1);
              return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
            }""")
        )
    return shown


def test_a_moving_scene_is_looked_at_once_and_asked_about(still, server):
    page = still.open()
    page.get_by_role("button", name="A moving scene").click()
    wait_for_context(page)
    context = still.events(CONTEXTS)[0][-1]["context"]
    assert context["frames"] == 6
    expect(page.locator("#facts [data-fact=image]")).to_have_text(f"{context['image_tokens']:,} tokens, 6 frames")
    tokens = server.get(f"{CONTEXTS}/{context['id']}/tokens").json()
    frames, rows, columns = tokens["grid"]
    assert frames == 6
    for frame in range(frames):
        page.get_by_label("Frame", exact=True).fill(str(frame + 1))
        kept = [i % (rows * columns) for i in tokens["kept"] if i // (rows * columns) == frame]
        expect(page.locator("#overlay .kept rect")).to_have_count(len(kept))
        cells = page.locator("#overlay .kept rect").evaluate_all(
            "cells => cells.map((c) => [c.x.baseVal.value, c.y.baseVal.value])"
        )
        assert [int(y) * columns + int(x) for x, y in cells] == kept
        expect(page.locator("#frame-said")).to_have_text(f"Frame {frame + 1} of 6: {len(kept)} tokens kept")
    question = page.locator("#suggestions button").first.inner_text()
    page.locator("#suggestions button").first.click()
    wait_for_answer(page, question)
    first, whole = (request.post_data_json["messages"][0]["content"][0] for request in still.asked(CHAT))
    assert first == {"type": "video_url", "video_url": {"url": f"lookonce:{context['id']}"}}
    assert whole["video_url"]["url"].startswith("data:video/jpeg;base64,")
    assert figures(page, "context")["cache"] == "hit (memory)"
    expect(page.locator(".right, .wrong").first).to_be_visible()


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_is_taken_apart_by_the_browser(still, kind):
    page = still.open()
    page.locator("#file").set_input_files(file(f"clip.{kind}", animation(kind), f"image/{kind.lower()}"))
    wait_for_context(page)
    assert still.events(CONTEXTS)[0][-1]["context"]["frames"] == 3
    shown = colors_shown(page, 3)
    assert [max(range(3), key=color.__getitem__) for color in shown] == [0, 1, 2]
    page.locator("#file").set_input_files(
        file("still.webp", animation("WEBP", colors=("red",)), "image/webp")  # the same format, one frame
    )
    wait_for_context(page)
    expect(page.locator("#moving")).to_be_hidden()


def test_it_moves_by_itself_until_it_is_paused(visit):
    page = visit.open()
    page.locator("#file").set_input_files(file("clip.webp", animation("WEBP"), "image/webp"))
    wait_for_context(page)
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    for number in (2, 3, 1):
        expect(page.locator("#frame-said")).to_have_text(re.compile(f"^Frame {number} of 3"))
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Play")).to_be_focused()
    slider = page.get_by_label("Frame", exact=True)
    slider.fill("1")
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext").startswith("Frame 2 of 3")
    expect(page.locator("#image")).to_have_js_property("complete", True)


def test_nothing_moves_where_that_is_not_wanted(still):
    page = still.open()
    page.locator("#file").set_input_files(file("clip.webp", animation("WEBP"), "image/webp"))
    wait_for_context(page)
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert page.locator("#frame-said").inner_text().startswith("Frame 1 of 3")


def test_a_moving_scene_beside_pictures(still):
    page = still.open()
    page.get_by_role("button", name="A pair").click()
    states = page.locator("#pictures .state")
    expect(states).to_have_text(2 * [re.compile("looked at now|known before")])
    right = page.locator("#suggestions button").all_inner_texts()
    assert len(right) > 2
    page.get_by_label("Add to these pictures").check()
    page.get_by_role("button", name="A moving scene").click()
    expect(states).to_have_text(3 * [re.compile("looked at now|known before")])
    assert page.locator("#suggestions button").first.inner_text() == "Which image has more objects?"
    ask(page, "What happens?")
    kinds = [part["type"] for part in still.asked(CHAT)[0].post_data_json["messages"][0]["content"]]
    assert kinds == ["image_url", "image_url", "video_url", "text"]
    page.locator("#pictures .select").first.click()
    expect(page.locator("#moving")).to_be_hidden()


def test_a_pair_has_questions_whose_answers_are_known(still):
    page = still.open()
    page.get_by_role("button", name="A pair").click()
    expect(page.locator("#pictures .state")).to_have_text(2 * [re.compile("looked at now|known before")])
    question = page.locator("#suggestions button").first.inner_text()
    page.locator("#suggestions button").first.click()
    wait_for_answer(page, question)
    expect(page.locator(".way.context").locator(".right, .wrong")).to_be_visible()
    content = still.asked(CHAT)[0].post_data_json["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "image_url", "text"]
