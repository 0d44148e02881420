"""`make bench-store` measures all it says; how fast anything is, no test tells."""

import json
import math

import pytest

from lookonce_cache import PRECISIONS, encode
from lookonce_evaluation.bench import store

MEASURED = {
    "process": {"bytearray(view)", "memoryview[:] = view", "encode", "decode", "dense"},
    "memory": {"put", "get"},
    "Redis, TCP": {"bare SET", "bare GET", "put", "get"},
    "Redis, unix socket": {"bare SET", "bare GET", "put", "get"},
    "tiered, TCP": {"put", "get, not hot", "get, hot"},
}


def test_a_quick_run_has_every_row(tmp_path, capsys):
    store.main(["--quick", "--json", str(tmp_path / "figures.json")])
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    expected = [(p, where, o) for p in PRECISIONS for where, operations in MEASURED.items() for o in operations]
    assert sorted((row["precision"], row["where"], row["operation"]) for row in rows) == sorted(expected)
    figures = [row["ms"]["median"] for row in rows] + [row["megabytes_per_second"] for row in rows]
    figures += [row["over_limit"]["median"] for row in rows if row["limit"]]
    assert all(math.isfinite(figure) and figure > 0 for figure in figures)
    assert len(figures) == len(rows) * 2 + len(PRECISIONS) * 8
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)


def test_contexts_have_the_size_asked_for():
    for megabytes, layout in [(0.2, (28, 4, 128)), (2.0, (28, 4, 128)), (36.0, (32, 32, 128))]:
        native = store.make_context(megabytes, "native")
        assert len(encode(native)) == pytest.approx(megabytes * 1e6, rel=0.2)
        for precision in PRECISIONS:
            context = store.make_context(megabytes, precision)
            layers, heads, _, head_dim = context.keys.shape
            assert (layers, heads, head_dim) == layout
            assert precision == "native" or context.nbytes < 0.7 * native.nbytes
