"""The pictures of the docs' pages: always taken, and left there where $LOOKONCE_SCREENSHOTS names the folder."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from .acting import look_once_and_ask, wait_for_answer, wait_for_context
from .chromium import PHONE

FOLDER_VARIABLE = "LOOKONCE_SCREENSHOTS"
MAX_BYTES = 200_000
DESKTOP = {"viewport": {"width": 1120, "height": 900}}
TABLET = {"viewport": {"width": 768, "height": 1000}}
LAPTOP = {"viewport": {"width": 1280, "height": 800}}
SMALL_PHONE = PHONE | {"viewport": {"width": 390, "height": 664}, "device_scale_factor": 2}
BEGINS = ("phone", "light")  # is taken before the first question


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("device", "options"), [("desktop", LAPTOP), ("phone", SMALL_PHONE)])
def test_the_pictures_of_the_documentation(visiting, server, tmp_path, device, options, scheme):
    """What the window shows, and no more: on a phone as it begins, and after a question."""
    server_forgets_all(server)
    page = visiting(server, color_scheme=scheme, **options).open(waits=False)
    wait_for_context(page)
    for question in page.locator("#suggestions button").all_inner_texts()[: 0 if (device, scheme) == BEGINS else 3]:
        page.locator("#suggestions button", has_text=question).click()
        wait_for_answer(page, question)
    if scheme == "dark":
        page.get_by_label("Attention").check()
    page.mouse.move(0, 0)
    path = Path(os.environ.get(FOLDER_VARIABLE, tmp_path)) / f"playground-{device}-{scheme}.png"
    in_few_colours(page.screenshot()).save(path, optimize=True)
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize(
    ("name", "options"),
    [("desktop-light", DESKTOP), ("tablet-dark", TABLET), ("phone-light", PHONE)],
)
def test_the_pictures_of_the_monitor(visiting, server, tmp_path, name, options):
    for seed in {"desktop-light": (631, 632, 633), "tablet-dark": (634,), "phone-light": (635,)}[name]:
        look_once_and_ask(server, seed, 4)
    page = visiting(server, color_scheme=name.partition("-")[2], **options).open("/monitor")
    expect(page.locator("#dots circle").nth(4)).to_be_visible()
    path = Path(os.environ.get(FOLDER_VARIABLE, tmp_path)) / f"monitor-{name}.png"
    part_of(page, "header", "#recent tr:nth-child(5)").save(path, optimize=True)
    assert path.stat().st_size < MAX_BYTES


def part_of(page: Page, first: str, last: str) -> Image.Image:
    """The page between two elements, as wide as it is."""
    page.mouse.move(0, 0)
    page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    top = page.locator(first).first.bounding_box()["y"]
    end = page.locator(last).first.bounding_box()
    bottom = end["y"] + end["height"] + 12
    clip = {"x": 0, "y": top, "width": page.viewport_size["width"], "height": bottom - top}
    return in_few_colours(page.screenshot(full_page=True, clip=clip))


def in_few_colours(png: bytes) -> Image.Image:
    """A picture in the 256 colours that suit it best."""
    taken = Image.open(io.BytesIO(png)).convert("RGB")
    return taken.quantize(256, Image.Quantize.MEDIANCUT, kmeans=8, dither=Image.Dither.NONE)


def server_forgets_all(server) -> None:
    """So that each picture shows the describe pass."""
    with server.http() as client:
        for context in client.get("/v1/contexts").json()["data"]:
            client.delete(f"/v1/contexts/{context['id']}").raise_for_status()
