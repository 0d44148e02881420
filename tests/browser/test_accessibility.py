"""The playground for everybody: by keyboard alone, read aloud, on a phone, in the dark, without motion."""

from itertools import pairwise

import pytest
from playwright.sync_api import Page, expect

from .acting import ask, pick_file, pick_scene, wait_for_answer, wait_for_context
from .chromium import CONTRASTS, PHONE, Visit

SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) shifts.push(entry.value);
}).observe({ type: "layout-shift", buffered: true });
"""


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the focus is there; all on the way can be seen to have it."""
    for _ in range(60):
        page.keyboard.press("Tab")
        outlined = page.evaluate("""() => {
          const it = document.activeElement;
          const shown = it.id === "file" ? it.nextElementSibling : it; // its label stands for it
          return it === document.body || getComputedStyle(shown).outlineStyle !== "none";
        }""")
        assert outlined, page.evaluate("document.activeElement.outerHTML")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab never comes to {selector}")


def test_by_keyboard_alone(visit: Visit):
    page = visit.open()
    tab_to(page, "#scenes button")
    page.keyboard.press("Enter")
    wait_for_context(page)
    tab_to(page, "#views input")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Attention")).to_be_checked()
    tab_to(page, "#share")
    kept = page.locator("#facts [data-fact=kept]").inner_text()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#facts [data-fact=kept]")).not_to_have_text(kept)
    assert len(visit.asked("/v1/contexts")) == 2  # the walk made one context, not three
    tab_to(page, "#question")
    page.keyboard.type("What is there?")
    page.keyboard.press("Enter")
    wait_for_answer(page, "What is there?")
    expect(page.get_by_label("Your question")).to_be_focused()
    tab_to(page, "#suggestions button")
    chosen = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Space")
    wait_for_answer(page, chosen)
    tab_to(page, "#compare")
    page.keyboard.press("Space")
    tab_to(page, "#how summary")
    page.keyboard.press("Enter")
    expect(page.locator("#how ol")).to_be_visible()
    tab_to(page, "footer a")


def test_everything_has_a_name(visit: Visit):
    page = visit.open()
    pick_scene(page)
    ask(page, "What is there?")
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    seen = [node for node in tree if not node.get("ignored")]
    needing = {"button", "link", "textbox", "slider", "radio", "checkbox", "image", "img", "heading", "list", "region"}
    roles = {node["role"]["value"] for node in seen}
    assert roles >= {"button", "link", "textbox", "slider", "radio", "checkbox", "image", "heading", "region", "status"}
    unnamed = [node for node in seen if node["role"]["value"] in needing and not node.get("name", {}).get("value")]
    assert [node["role"]["value"] for node in unnamed if node["role"]["value"] != "list"] == []
    headings = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map((one) => Number(one.tagName[1]))")
    assert headings[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(headings))


def test_what_happens_is_said(visit: Visit):
    page = visit.open()
    said = page.get_by_role("status").last
    pick_scene(page)
    expect(said).to_contain_text(page.locator("#description").inner_text())
    ask(page, "What is there?")
    expect(said).to_have_text(page.locator(".verdict").inner_text())
    assert page.locator("#problem").get_attribute("role") == "alert"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(visiting, server, scheme):
    visit = visiting(server, color_scheme=scheme)
    page = visit.open()
    pick_scene(page)
    ask(page, "What is there?")
    page.locator("#suggestions button").first.click()
    expect(page.locator(".right, .wrong").first).to_be_visible()
    page.locator("#file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    expect(page.get_by_role("alert")).not_to_be_empty()
    page.locator("#how summary").click()
    found = page.evaluate(CONTRASTS)
    assert len(found) > 60
    assert [one for one in found if one["contrast"] < 4.5] == []


def test_nothing_is_wider_than_a_phone(visiting, server):
    visit = visiting(server, **PHONE)
    page = visit.open()

    def assert_fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") == 360

    assert_fits()
    pick_scene(page)
    assert_fits()
    page.locator("#suggestions button").first.tap()
    ask(page, "Is there a " + "very" * 40 + " long word?")
    assert_fits()
    page.locator("#how summary").tap()
    assert_fits()


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_nothing_jumps(visiting, server, options):
    """The sum of unexpected layout shifts is next to nothing; Web Vitals call less than 0.1 good."""
    visit = visiting(server, **options)
    visit.page.add_init_script(SHIFTS)
    page = visit.open()
    pick_file(page, 501 if options else 502)
    ask(page, "What is there?")
    assert page.evaluate("shifts.reduce((sum, shift) => sum + shift, 0)") < 0.01


@pytest.mark.parametrize(("wanted", "behavior"), [("reduce", "auto"), ("no-preference", "smooth")])
def test_motion_is_left_out_where_it_is_not_wanted(visiting, server, wanted, behavior):
    page = visiting(server, reduced_motion=wanted).open()
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == behavior
    moving = "[...document.querySelectorAll('*')].filter((e) => getComputedStyle(e).transitionDuration !== '0s')"
    assert page.evaluate(f"{moving}.length + document.getAnimations().length") == 0
