"""What a person does on the playground, and what is to be seen there then."""

import re
from typing import Any

from playwright.sync_api import Locator, Page, expect

from ..support.pictures import find_question, messages, picture_url, png
from ..support.server_process import MODEL, LookonceServer

WHOLE = re.compile(r"^Looked at in|^It was looked at before")


def pick_scene(page: Page, index: int = 0) -> None:
    """Pick one of the drawn scenes, and wait until it can be asked about."""
    page.locator("#scenes button").nth(index).click()
    wait_for_context(page)


def pick_file(page: Page, seed: int) -> None:
    """Choose a file with a held-out picture, and wait until it can be asked about."""
    page.locator("#file").set_input_files(file(f"{seed}.png", png(seed), "image/png"))
    wait_for_context(page)


def file(name: str, content: bytes, kind: str) -> dict[str, Any]:
    """A file as Playwright's file chooser takes it."""
    return {"name": name, "mimeType": kind, "buffer": content}


def wait_for_context(page: Page) -> None:
    expect(page.locator("#progress")).to_have_text(WHOLE)
    expect(page.locator("#question")).to_be_enabled()


def ask(page: Page, question: str) -> None:
    """Type a question, and wait until its row, the first one, is whole."""
    send(page, question)
    wait_for_answer(page, question)


def wait_for_answer(page: Page, question: str) -> None:
    row = page.locator("#answers > li").first
    expect(row.locator("h3")).to_have_text(question)
    last = ".way:last-child [data-figure=total]"
    expect(row.locator(last)).to_have_text(re.compile(r"\d"))


def send(page: Page, question: str) -> None:
    """Type a question and send it, whatever becomes of it."""
    page.get_by_label("Your question").fill(question)
    page.get_by_label("Your question").press("Enter")


def failure(page: Page) -> Locator:
    """What is said in the newest row of a question that failed."""
    return page.locator("#answers > li").first.locator(".failure:visible")


def figures(page: Page, way: str, row: int = 0) -> dict[str, str]:
    """The figures of a row; `way` is "context" or "full"."""
    found = page.locator("#answers > li").nth(row).locator(f".way.{way} dd")
    return {one.get_attribute("data-figure") or "": one.inner_text() for one in found.all()}


def answer(page: Page, way: str, row: int = 0) -> str:
    """The text of an answer, and what is said of it."""
    return page.locator("#answers > li").nth(row).locator(f".way.{way} .text").inner_text()


def ask_server(server: LookonceServer, seed: int) -> None:
    """Ask about a drawn scene as a client does, beside the page."""
    with server.openai() as client:
        asked = messages(find_question(seed), picture_url(seed))
        client.chat.completions.create(model=MODEL, messages=asked, max_tokens=24)


def look_once_and_ask(server: LookonceServer, seed: int, times: int = 1) -> None:
    """A miss of a client's, and hits after its describe pass."""
    described = server.metric("describes_total", result="done")
    ask_server(server, seed)
    server.wait_for("describes_total", described + 1, result="done")
    for _ in range(times):
        ask_server(server, seed)
