"""Each promise of the docs names tests that are there."""

import ast
import re

from ..support.snippets import ROOT

PAGE = ROOT / "docs" / "research" / "promises.md"


def test_each_promise_is_kept_by_tests_that_exist():
    rows = re.findall(r"^\| (?!promise |-)(.+?) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 50
    for promise, kept_by in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", kept_by)
        assert tests, f"{promise}: it names no test"
        for file, name in tests:
            tree = ast.parse((ROOT / file).read_text())
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
            assert name in functions, f"{promise}: {file} has no {name}"
