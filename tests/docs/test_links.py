"""Every relative link of the README and the docs leads to a file that is there, and to a heading that is there."""

import re
from collections import Counter
from pathlib import Path

import pytest

from ..support.snippets import PAGES, ROOT

_CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.findall(_CODE.sub("", page.read_text())):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def broken(page: Path) -> list[str]:
    """Return the relative links of a page that lead nowhere."""
    found = []
    for link in _LINK.findall(_CODE.sub("", page.read_text())):
        name, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    assert broken(page) == []


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](#one) [b](#two) [c](other.md) [d](page.md#one) [e](https://example.com/x)\n")
    assert broken(page) == ["#two", "other.md"]


def test_the_code_map_names_what_is_there():
    for name in re.findall(r"`(\w[\w./]*/[\w./]*|\w+\.py)`", (ROOT / "docs" / "code-map.md").read_text()):
        assert (ROOT / name).exists() or (ROOT / "server" / "lookonce_server" / name).exists(), name
