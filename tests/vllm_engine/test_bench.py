"""`make bench-vllm` measures all it says; how fast anything is, no test tells."""

import json

import pytest

from lookonce_evaluation.bench import vllm
from lookonce_evaluation.bench.methods import FULL, PREFIX
from lookonce_evaluation.bench.vllm import BLOCKS, EVERYTHING, MEMORY, REDIS, SHARED
from lookonce_server.engines.vllm.connector.step_times import StepClock

pytestmark = pytest.mark.xdist_group("bench-vllm")  # one run serves all


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    vllm.main(["--quick", "--json", str(file)])
    return json.loads(file.read_text())


def test_all_methods_are_measured_at_each_concurrency(figures):
    measured = [(row["concurrency"], row["method"], row["answers"]) for row in figures["answers"]]
    methods = (FULL, PREFIX, MEMORY, REDIS, SHARED, EVERYTHING, BLOCKS)
    assert measured == [(number, method, answers) for number, answers in ((1, 2), (3, 3)) for method in methods]
    for row in figures["answers"]:
        assert row["image_tokens"] == 196
        assert 0 < row["first_token_ms"]["median"] <= row["answer_ms"]["median"]
        assert row["tokens_per_s"] >= row["requests_per_s"] > 0


def test_each_method_computes_what_its_cache_does_not_hold(figures):
    computed = {row["method"]: row["computed_tokens"] for row in figures["answers"] if row["concurrency"] == 1}
    assert computed[FULL] > 196  # the image's
    assert computed[PREFIX] < computed[FULL] - 100  # of the image's tokens, those in full blocks
    assert len({computed[method] for method in (MEMORY, REDIS, SHARED, EVERYTHING, BLOCKS)}) == 1
    assert computed[MEMORY] < computed[PREFIX]


def test_bytes_are_told(figures):
    kept = {row["method"]: row["bytes"] for row in figures["answers"]}
    assert kept[FULL] == 0
    assert kept[MEMORY] == kept[REDIS] < kept[EVERYTHING] / 10
    assert kept[PREFIX] == pytest.approx(kept[EVERYTHING], rel=0.05)


def test_every_context_is_loaded_for_its_question(figures):
    loads = [(row["concurrency"], row["method"], row["loads"]) for row in figures["loads"]]
    assert loads == [
        (number, name, asked)
        for number, asked in ((1, 2), (3, 3))
        for name in (MEMORY, REDIS, SHARED, EVERYTHING, BLOCKS)
    ]
    assert all(0 < row["share_of_steps"] < 1 for row in figures["loads"])


def test_a_describe_pass_is_taken_apart(figures):
    (cost,) = figures["describes"]
    assert cost["both_ms"]["median"] == pytest.approx(cost["generate_ms"]["median"] + cost["capture_ms"]["median"])
    assert 0 < cost["compress_ms"]["median"] <= cost["capture_holds_ms"]["median"] < cost["capture_ms"]["median"]
    assert cost["of_generate"] == pytest.approx(cost["both_ms"]["median"] / cost["generate_ms"]["median"])
    assert cost["tokens"] > 1
    assert 0 < cost["capture_share_of_step"] < 1


def test_times_of_steps_are_kept_until_they_are_taken_and_not_for_ever():
    clock = StepClock()
    for number in range(10_000):
        clock.start_step()
        for _ in range(number % 3):
            with clock.timing("load"):
                pass
        clock.end_step()
    steps = clock.take()
    assert {step.loads for step in steps} == {1, 2}  # a step without any is none
    assert len(steps) == 4096
    assert all(0 <= step.load_seconds <= step.step_seconds for step in steps)
    assert clock.take() == []
