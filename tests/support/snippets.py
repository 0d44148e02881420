"""The code blocks of the README and the docs, in order."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Snippet(NamedTuple):
    """A code block."""

    language: str  # "" where the page names none: output, or a form
    text: str
    line: int  # where it begins

    @property
    def commands(self) -> list[str]:
        """The shell's commands: in a console those after "$ ", whose output stands below them."""
        if self.language == "console":
            return [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]
        if self.language in ("bash", "sh"):
            joined = self.text.replace("\\\n", " ")
            return [line for line in joined.splitlines() if line and not line.startswith("#")]
        return []

    @property
    def output(self) -> str:
        """What a console shows below its commands."""
        return "".join(f"{line}\n" for line in self.text.splitlines() if not line.startswith("$ "))


def snippets(page: Path) -> list[Snippet]:
    """Return a page's code blocks."""
    text = page.read_text()
    return [Snippet(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in _BLOCK.finditer(text)]


def words(command: str) -> tuple[dict[str, str], list[str]]:
    """Split a command into the variables set before it, and its words without the comment."""
    found = shlex.split(command, comments=True)
    variables = {}
    while found and re.fullmatch(r"[A-Z_]+=.*", found[0], re.DOTALL):
        name, _, value = found.pop(0).partition("=")
        variables[name] = value
    return variables, found
