"""`make bench-server` measures all it says, on what is served; how fast anything is, no test tells."""

import json
import math

import pytest

from lookonce_evaluation.bench import server
from lookonce_evaluation.errors import EvaluationError

pytestmark = pytest.mark.extended
METHODS = {"none": {"direct", "server", "bare uvicorn"}, "scenes": {"direct", "server", "lookonce serve"}}


def test_a_quick_run_has_every_row(tmp_path, capsys):
    server.main(["--quick", "--json", str(tmp_path / "figures.json")])
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    measured = [(row["model"], row["tokens"], row["stream"], row["concurrency"], row["method"]) for row in rows]
    loads = [(tokens, stream, at_once) for tokens in (1, 8) for stream in (False, True) for at_once in (1, 4)]
    assert sorted(measured) == sorted(
        (model, *load, name) for model in METHODS for load in loads for name in METHODS[model]
    )
    assert all(math.isfinite(row["p50_ms"]["median"]) and row["p50_ms"]["median"] > 0 for row in rows)
    assert all(row["added_ms"]["median"] == 0 for row in rows if row["method"] == "direct")
    assert len(
        [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| none", "| scenes"))]
    ) == len(rows)


@pytest.mark.anyio
async def test_what_is_measured_is_what_is_served():
    """Not plain uvicorn: the connection refuses long headers in the API's own words, as `lookonce serve` does."""
    load = server.Load(server.NONE, 1, False, 1)
    async with server.in_process() as methods, methods[server.SERVER](load) as (ask,):
        (request,) = ask.args
        assert json.loads(await ask())["choices"][0]["message"]["content"] == " small"
        long = request.replace(b"host: localhost", b"host: localhost\r\nx-long: " + b"x" * 100_000)
        with pytest.raises(EvaluationError, match="headers_too_large"):
            await ask.func(long)
