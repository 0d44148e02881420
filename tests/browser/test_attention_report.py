"""The page of `lookonce analyze attention`, opened as a file."""

from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from lookonce_evaluation.cli import analyze

from .chromium import CONTRASTS, PHONE, Visit


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("attention")
    assert analyze(["attention", "--images", "1", "--examples", "1", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(
    "options", [{"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"]
)
def test_the_page_holds_all_it_shows(browser: Browser, folder: Path, options):
    """A visit fails on anything that is asked for elsewhere, and on any complaint in the console."""
    with Visit(browser, folder.as_uri(), **options) as visit:
        page = visit.open("/attention.html")
        assert [one.url for one in visit.requests if not one.url.startswith("data:")] == [page.url]
        page.locator("img").evaluate_all("all => all.forEach((one) => { one.loading = 'eager'; })")
        page.wait_for_function("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
        assert all(page.locator("img").evaluate_all("all => all.map((one) => one.alt)"))
        headings = page.locator("h1, h2, h3").evaluate_all("all => all.map((one) => Number(one.tagName[1]))")
        assert headings[0] == 1
        assert headings.count(1) == 1
        assert all(below - above <= 1 for above, below in pairwise(headings))
        page.locator("summary").click()
        expect(page.get_by_role("cell").first).to_be_visible()
        assert [one for one in page.evaluate(CONTRASTS) if one["contrast"] < 4.5] == []
        assert page.evaluate("document.documentElement.scrollWidth === innerWidth")
