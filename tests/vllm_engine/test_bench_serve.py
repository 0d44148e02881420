"""`make bench-serve` asks all questions of both servers; how fast they are, no test tells."""

import json

from lookonce_evaluation.bench import serve


def test_both_servers_answer_all_questions(tmp_path):
    serve.main(["--quick", "--json", str(tmp_path / "serve.json")])
    rows = json.loads((tmp_path / "serve.json").read_text())["rows"]
    assert sorted((row["pictures"], row["server"]) for row in rows) == [("new", serve.LOOKONCE), ("new", serve.VLLM)]
    for row in rows:
        assert row["at_once"] == 2
        assert row["first_token_ms"]["median"] > 0
        assert row["requests_per_s"]["median"] > 0
