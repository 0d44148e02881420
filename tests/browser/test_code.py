"""Questions as code: what is shown runs as it stands, and gets the same answer."""

import os
import re
import subprocess
import sys

import pytest
from playwright.sync_api import Page, expect

from ..support.pictures import png
from .acting import answer, ask, pick_file, wait_for_answer

PROGRAMS = {"curl": ("bash", "-c"), "openai": (sys.executable, "-c"), "lookonce": (sys.executable, "-c")}
NAME = "it's $HOME `1`.png"  # must not mean anything to a shell


def code(page: Page, way: str, language: str) -> str:
    """The code of the newest row's answer."""
    row = page.locator("#answers > li").first
    opener = row.locator(f".way.{way}").get_by_role("button", name="Copy as code")
    if opener.get_attribute("aria-expanded") == "false":
        opener.click()
    row.locator(".code").get_by_role("button", name=language, exact=True).click()
    expect(row.locator(".code [aria-pressed=true]")).to_have_text(language)
    return row.locator(".code pre").inner_text()


@pytest.mark.parametrize("way", ["context", "full"])
def test_it_runs_and_gets_the_same_answer(visit, tmp_path, way):
    page = visit.open()
    page.locator("#file").set_input_files({"name": NAME, "mimeType": "image/png", "buffer": png(851)})
    expect(page.locator("#image")).to_have_attribute("alt", NAME)
    ask(page, 'How many objects are there? Say "it\'s" `1` $HOME \\ 2')
    if way == "full":
        code(page, way, "curl")
        with page.expect_download() as download:
            page.locator(".code .files a").click()
        assert download.value.suggested_filename
        download.value.save_as(tmp_path / NAME)
    for language, program in PROGRAMS.items():
        text = code(page, way, language)
        assert ("lookonce:" in text) == (way == "context")
        assert ("full_image" in text) == (way == "full")
        ran = subprocess.run(
            [*program, text],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "NO_PROXY": "*"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        expected = answer(page, way)
        found = ran.stdout if language != "curl" else re.findall(r'"content":\s*"([^"]*)"', ran.stdout)[0]
        assert found.strip() == expected, (language, ran.stdout, text)


def test_it_is_of_all_pictures_and_of_moving_ones(visiting, server):
    page = visiting(server, reduced_motion="reduce").open()
    page.get_by_role("button", name="A pair").click()
    expect(page.locator("#pictures .state")).to_have_text(2 * [re.compile("looked at now|known before")])
    question = page.locator("#suggestions button").first.inner_text()
    page.locator("#suggestions button").first.click()
    wait_for_answer(page, question)
    assert len(re.findall(r"image\(\"lookonce:[0-9a-f]{64}\"\)", code(page, "context", "lookonce"))) == 2
    assert 'client.image("Pair 3, 1.png")' in code(page, "full", "lookonce")
    page.get_by_role("button", name="A moving scene").click()
    expect(page.locator("#moving")).to_be_visible()
    expect(page.locator("#answers > li")).to_have_count(0)
    ask(page, "What happens?")
    assert re.search(r"video\(\"lookonce:[0-9a-f]{64}\"\)", code(page, "context", "lookonce"))
    assert '"data:video/jpeg;base64,", "Moving scene 7 1.png", "Moving scene 7 2.png"' in code(page, "full", "openai")


def test_it_is_copied(visit):
    page = visit.open()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    pick_file(page, 852)
    ask(page, "What is there?")
    shown = code(page, "context", "curl")
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").strip() == shown.strip()
    page.locator(".way.context").get_by_role("button", name="Copy as code").click()
    expect(page.locator(".code")).to_be_hidden()
