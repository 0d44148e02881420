"""What asking again by the full pass brings and costs, by thresholds on how sure the answer from a context is."""

import json

import pytest
import torch

from lookonce_evaluation.data.scenes import Case, held_out
from lookonce_evaluation.tasks import fallback
from lookonce_evaluation.tasks.fallback import Pool, curve, markdown, point, record, summary
from lookonce_scenes.questions import Question

CASES = held_out(2, 600_000_000)
YES, NO = Question("count", "?", "Yes"), Question("count", "?", "No")


def made_up() -> tuple[Pool, list[Case]]:
    """Two images with a pair of questions each."""
    pool = Pool(
        images=[0, 0, 1, 1],
        right=torch.tensor([True, False, False, True]),
        full=torch.tensor([True, True, False, False]),
        signals={fallback.SIGNAL: torch.tensor([9.0, 1.0, 2.0, 3.0])},
        hit_tokens=torch.tensor([10.0, 10.0, 10.0, 10.0]),
        full_tokens=torch.tensor([100.0, 100.0, 100.0, 100.0]),
    )
    return pool, [Case(str(i), None, {"count": (YES, NO)}, {}) for i in range(2)]


def test_a_threshold_brings_what_it_finds_and_costs_what_it_asks():
    pool, cases = made_up()
    assert pool.recoverable.tolist() == [False, True, False, False]
    found = point(pool, cases, pool.signals[fallback.SIGNAL] < 2.5)
    assert (found["again"], found["precision"], found["recall"]) == (0.5, 0.5, 1.0)
    assert (found["acc"], found["acc+"]) == (75.0, 50.0)
    assert (found["tokens"], found["of_full"]) == (60.0, pytest.approx(0.6))
    never = point(pool, cases, torch.zeros(4, dtype=torch.bool))
    assert (never["acc"], never["precision"], never["recall"], never["of_full"]) == (50.0, 0.0, 0.0, pytest.approx(0.1))


def test_the_curve_goes_from_nothing_to_everything():
    pool, _ = made_up()
    assert curve(pool, fallback.SIGNAL, steps=4) == [(0.0, 0.0), (0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (1.0, 1.0)]


def test_a_small_evaluation_from_end_to_end(model, settings, tmp_path):
    records = json.loads(json.dumps([record(model, case, settings, (0.05,)) for case in CASES], allow_nan=False))
    result = summary({"search": records, "held out": records}, CASES, (0.05,))
    json.dumps(result, allow_nan=False)
    rows = result["ways"]["0.05"]["points"]
    assert [rows[0]["again"], rows[-1]["again"]] == [0.0, 1.0]
    assert rows[-1]["recall"] == (1.0 if result["ways"]["0.05"]["counts"]["recoverable"] else 0.0)
    for block in markdown(result).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
    fallback.plot(tmp_path / "recall.png", result)
    assert (tmp_path / "recall.png").stat().st_size > 1000


def test_a_wrong_retention_is_refused(capsys):
    for text in ("", "0", "1.5", "a", "0.05,"):
        with pytest.raises(SystemExit):
            fallback.main(["--retentions", text])
        assert "expected numbers between 0 and 1" in capsys.readouterr().err
