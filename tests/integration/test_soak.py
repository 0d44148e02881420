"""`make soak`: a server answers, and rightly, while its store is killed; see `test_load` for what it notices."""

import json

import pytest

from lookonce_evaluation.bench import soak

pytestmark = [pytest.mark.extended, pytest.mark.timeout(900)]


def test_a_quick_run_loses_nothing(tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert soak.main(["--quick", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    kinds = figures["kinds"]
    total = kinds.pop("all")
    assert figures["restarts"] == 1
    assert total["answers"] > 0
    assert (total["wrong"], total["lost"], total["unexplained"]) == (0, 0, 0)
    assert total["requests"] == sum(kind["requests"] for kind in kinds.values())
    assert 0 < total["p50_ms"] <= total["p99_ms"] <= total["longest_ms"]
    assert figures["errors in the server's log"] == 0
    assert "| all |" in capsys.readouterr().out
