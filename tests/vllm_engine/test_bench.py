"""The benchmark runs, and tells all that it should; what it measures is not tested."""

import json

import pytest

from lookonce_evaluation import bench_vllm
from lookonce_evaluation.serving.ways import EVERYTHING, FULL, MEMORY, PREFIX, REDIS
from lookonce_server.engines.vllm import options


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    bench_vllm.main(["--quick", "--concurrency", "1,3", "--json", str(file)])
    (told,) = json.loads(file.read_text())
    return told


def test_all_ways_are_measured_at_each_concurrency(told):
    assert told["image_tokens"] == 196
    assert set(told["ways"]) == {FULL, PREFIX, MEMORY, REDIS, EVERYTHING}
    for way in told["ways"].values():
        assert [cell["answers"] for cell in way["concurrency"].values()] == [2, 3]
        for cell in way["concurrency"].values():
            assert 0 < cell["first_token_ms"]["median"] <= cell["answer_ms"]["median"]
            assert cell["tokens_per_s"] >= cell["requests_per_s"] > 0


def test_each_way_computes_what_its_cache_does_not_hold(told):
    computed = {name: way["concurrency"]["1"]["computed_tokens"] for name, way in told["ways"].items()}
    assert computed[FULL] > told["image_tokens"]
    assert computed[PREFIX] <= computed[FULL] - told["block_size"]
    assert computed[MEMORY] == computed[REDIS] == computed[EVERYTHING] < computed[PREFIX]


def test_bytes_are_told(told):
    kept = {name: way["bytes"] for name, way in told["ways"].items()}
    assert kept[FULL] == 0
    assert kept[MEMORY] == kept[REDIS] < kept[EVERYTHING] / 10
    assert kept[PREFIX] == pytest.approx(kept[EVERYTHING], rel=0.05)


def test_every_context_is_loaded_for_its_question(told):
    for name in (MEMORY, REDIS, EVERYTHING):
        held = told["ways"][name]["held"]
        assert [cell["loads"] for cell in held.values()] == [2, 3]
        assert all(0 < cell["share_of_steps"] < 1 for cell in held.values())
    assert not told["ways"][FULL]["held"]
    assert not told["ways"][PREFIX]["held"]


def test_answers_were_checked(told):
    for name, found in told["checks"].items():
        assert found["alike"] == found["pairs"] > 1, name
        assert found["different"] == found["pairs"], name
        assert found["furthest"] < 1e-3, name
    assert told["describe"]["alike"] == [1, 1]


def test_a_describe_pass_is_taken_apart(told):
    cost = told["describe"]
    assert cost["both_ms"]["median"] == pytest.approx(cost["generated_ms"]["median"] + cost["captured_ms"]["median"])
    assert 0 < cost["result_ms"]["median"] <= cost["capture_holds_ms"]["median"] < cost["captured_ms"]["median"]
    assert cost["at_once_ms"]["median"] > 0


def test_engines_started_afterwards_have_no_clock(told):
    assert options.CONNECTOR == "ContextConnector"
