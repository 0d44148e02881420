"""How the tests lie: what several share is in tests/support, and no test stands on another one."""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]


def imports(file: Path) -> list[tuple[str, ...]]:
    """Return what a file imports of the tests, each as its path below tests/."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = file.parents[node.level - 1]
            found.append((folder / (node.module or "").replace(".", "/")).relative_to(TESTS).parts)
    return found


def test_what_tests_share_is_in_support():
    for file in sorted(TESTS.rglob("*.py")):
        own = file.parent.relative_to(TESTS).parts
        for parts in imports(file):
            path = "/".join(parts)
            assert parts[0] == "support" or parts[:-1] == own, f"{file}: {path} is of another folder"
            assert not parts[-1].startswith(("test_", "conftest")), f"{file}: {path} holds tests"
