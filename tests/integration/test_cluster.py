"""`make cluster`: replicas behind HAProxy answer, and rightly, while one is killed, each is restarted, and Redis is."""

import json
import os
import shutil

import pytest

from lookonce_evaluation.bench import cluster

from ..support.snippets import ROOT

MISSING = [
    program
    for program, variable in (("haproxy", "LOOKONCE_TEST_HAPROXY"), ("prometheus", "LOOKONCE_TEST_PROMETHEUS"))
    if not (os.environ.get(variable) or shutil.which(program))
]
pytestmark = [
    pytest.mark.extended,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(
        not os.environ.get("LOOKONCE_TEST_CLUSTER"), reason="takes minutes: LOOKONCE_TEST_CLUSTER=1, or make cluster"
    ),
]


def test_a_quick_run_loses_nothing(tmp_path, capsys):
    path = tmp_path / "figures.json"
    proxy = ROOT / "deploy" / "compose" / "haproxy.cfg"
    assert cluster.main(["--quick", "--json", str(path), "--proxy", str(proxy)]) == 0
    phases = json.loads(path.read_text())["phases"]
    assert [phase["replicas"] for phase in phases] == ["1", "2", "2", "2", "2"]
    for phase in phases:
        assert int(phase["questions"]) >= cluster.QUICK.sessions * cluster.QUICK.questions
        assert (phase["wrong"], phase["lost"]) == ("0", "0")
    one, several = phases[:2]
    assert one["hits"] == several["hits"] == "75.0%"  # of 4 questions about a new image
    assert one["by Prometheus"] != "-"
    assert "| rolling restart | 2 |" in capsys.readouterr().out
