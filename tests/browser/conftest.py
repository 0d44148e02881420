"""A real Chromium, a real server, and visits of the one to the other."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from ..support.server_process import LookonceServer
from .chromium import WAIT_MS, Visit, find_chromium

Visiting = Callable[..., Visit]


def pytest_report_header() -> str:
    try:
        return f"chromium: {find_chromium()}"
    except FileNotFoundError as error:
        return f"chromium: {error}: the pages are not tried in a browser"


@pytest.fixture(scope="module")  # no longer: while it runs, its event loop is in the way of other tests' loops
def browser() -> Iterator[Browser]:
    try:
        binary = find_chromium()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=binary) as browser:
        yield browser


@pytest.fixture(scope="module")
def server(embedded: LookonceServer) -> LookonceServer:
    return embedded


@pytest.fixture
def visiting(browser: Browser) -> Iterator[Visiting]:
    """A function that begins a visit to a server; all are over, and looked through, when the test ends."""
    with ExitStack() as stack:

        def begin(server: LookonceServer, **options: Any) -> Visit:
            return stack.enter_context(Visit(browser, server.url, **options))

        yield begin


@pytest.fixture
def visit(visiting: Visiting, server: LookonceServer) -> Visit:
    """A visit to the shared server."""
    return visiting(server)
