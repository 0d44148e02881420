"""`make bench-server` measures all it says; how fast anything is, no test tells."""

import json
import math

import pytest

from lookonce_evaluation import bench_server

pytestmark = pytest.mark.extended
WAYS = {"none": {"direct", "server", "bare uvicorn"}, "scenes": {"direct", "server", "lookonce serve"}}


def test_a_quick_run_has_every_row(tmp_path, capsys):
    bench_server.main(["--quick", "--json", str(tmp_path / "figures.json")])
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    found = [(row["engine"], row["tokens"], row["stream"], row["concurrency"], row["way"]) for row in rows]
    loads = [(tokens, stream, at_once) for tokens in (1, 8) for stream in (False, True) for at_once in (1, 32)]
    assert sorted(found) == sorted((engine, *load, way) for engine in WAYS for load in loads for way in WAYS[engine])
    assert all(math.isfinite(row["p50_ms"]["median"]) and row["p50_ms"]["median"] > 0 for row in rows)
    assert all(row["added_ms"]["median"] == 0 for row in rows if row["way"] == "direct")
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith(("| none", "| scenes"))]) == 16
