"""The Chromium that the pages are tried in, and what it notes meanwhile."""

import json
import os
import re
import shutil
from typing import Any, Self

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

WAIT_MS = 60_000  # a wait ends when what it waits for is there; the limit is for what never comes
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
# Of each text that is seen: its contrast with what is behind it, by WCAG 2.2, and how large it is.
CONTRASTS = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = numbers(color).map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (numbers(color)[3] !== 0) return color;
    }
    return getComputedStyle(document.documentElement).backgroundColor;
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.data.trim();
    const element = texts.currentNode.parentElement;
    if (!text || !element.checkVisibility() || element.closest(".hidden, fieldset:disabled")) continue;
    const style = getComputedStyle(element);
    const color = element instanceof SVGElement ? style.fill : style.color;
    const [low, high] = [light(color), light(behind(element))].sort((a, b) => a - b);
    found.push({ text, contrast: (high + 0.05) / (low + 0.05) });
  }
  return found;
}"""
BINARY_VARIABLE = "LOOKONCE_TEST_CHROMIUM"
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_TELL_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`against the policy: ${event.violatedDirective} ${event.blockedURI}`));
"""
# The browser keeps no body of an answer that is not to be stored, as those of the API are: the page keeps copies here.
_KEEP_ANSWERS = """
globalThis.copies = [];
const fetchFirst = globalThis.fetch;
globalThis.fetch = async (...given) => {
  const copy = { url: new URL(given[0].url ?? given[0], location.href).href };
  copies.push(copy);
  const response = await fetchFirst(...given);
  copy.text = response.clone().text().catch(() => "");
  return response;
};
"""
_ANSWERS = "(url) => Promise.all(copies.filter((copy) => copy.url.split('?')[0] === url).map((copy) => copy.text))"


def find_chromium() -> str:
    """The binary's path: $LOOKONCE_TEST_CHROMIUM, or one on the PATH.

    Raises:
        FileNotFoundError: there is none; the message says how to get one.
    """
    if configured := os.environ.get(BINARY_VARIABLE):
        return configured
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    raise FileNotFoundError(f"no Chromium: set {BINARY_VARIABLE}, or install chromium")


_FORGET = """() => {
  copies.length = 0;
  document.getElementById("progress").textContent = "";  // what is waited for next is of another picture
}"""


class Visit:
    """A visit to a server, with nothing remembered from others.

    Once its `with` block ends well, the browser must have had nothing to complain of but what was expected: no error
    in its console, no violation of the page's policy, no request to another host.

    Args:
        browser: where it takes place.
        server: its URL.
        options: of Playwright's `new_context`: viewport, colours, and so on.
    """

    def __init__(self, browser: Browser, server: str, **options: Any) -> None:
        self._context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        self._context.set_default_timeout(WAIT_MS)
        self._context.add_init_script(_TELL_VIOLATIONS)
        self._context.add_init_script(_KEEP_ANSWERS)
        self._server = server
        self._complaints: list[str] = []
        self._expected: list[str] = []
        self.requests: list[Request] = []
        self.page: Page = self._context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self._complaints.append(str(error)))
        self.page.on("request", self._asked)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        complaints = [c for c in self._complaints if not any(re.search(e, c) for e in self._expected)]
        self._context.close()
        assert not complaints or kind, complaints

    def open(self, path: str = "/", *, waits: bool = True) -> Page:
        """Go to one of the server's pages.

        Args:
            path: of the page.
            waits: until the playground has described its first scene; what it asked for that is forgotten.
        """
        self.page.goto(self._server + path)
        if path == "/" and waits:
            expect(self.page.locator("#question")).to_be_enabled()
            self.requests.clear()
            self.page.evaluate(_FORGET)
        return self.page

    def expect_complaint(self, pattern: str) -> None:
        """An error in the console is part of the test."""
        self._expected.append(pattern)

    def asked(self, path: str, method: str = "POST") -> list[Request]:
        """The requests of a path, its query aside."""
        return [r for r in self.requests if r.method == method and r.url.split("?")[0] == self._server + path]

    def events(self, path: str) -> list[list[dict[str, Any]]]:
        """The server-sent events of each answer that the page fetched from a path, in order."""
        texts = self.page.evaluate(_ANSWERS, self._server + path)
        return [
            [json.loads(data) for data in re.findall(r"^data: (\{.*)$", text or "", re.MULTILINE)] for text in texts
        ]

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._complaints.append(message.text)

    def _asked(self, request: Request) -> None:
        self.requests.append(request)
        if not request.url.startswith((self._server + "/", "blob:", "data:")):
            self._complaints.append(f"asked {request.url}")
