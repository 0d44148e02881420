"""`make bench-first` compares what it says: passes that leave no context with those that leave one."""

import json

import pytest
import torch

from lookonce_evaluation.bench import first, methods
from lookonce_evaluation.bench.engine import load_engine
from lookonce_scenes import CHECKPOINT
from lookonce_server.app import describe_plan
from lookonce_server.settings import Settings


@pytest.mark.anyio
async def test_a_first_answer_leaves_a_context_and_a_plain_one_does_not():
    settings = Settings()
    async with (
        load_engine(CHECKPOINT, torch.float32, max_running=2, max_queue=4) as engine,
        methods.open_memory() as store,
    ):
        contexts = methods.contexts_of(engine, store, describe_plan(settings, engine), settings.precision)
        asker = first.Asker(engine, contexts, None)
        for way, kept in ((first.PLAIN, 0), (first.FIRST, 2), (first.PLAIN, 2), (first.FIRST, 4)):
            answers = await asker.ask(way, 2)
            assert len({answer.computed_tokens for answer in answers}) == 1
            assert answers[0].computed_tokens > 196
            assert (await store.stats(methods.DEFAULT_TENANT)).contexts == kept
        await contexts.close()


def test_both_engines_are_measured(tmp_path):
    first.main(["--quick", "--json", str(tmp_path / "first.json")])
    rows = json.loads((tmp_path / "first.json").read_text())["rows"]
    assert [(row["engine"], row["at_once"]) for row in rows] == [("transformers", 2), ("vllm", 2)]
    for row in rows:
        for way in (first.PLAIN, first.FIRST):
            assert 0 < row[f"{way}_first_token_ms"]["median"] <= row[f"{way}_total_ms"]["median"]
        assert row["first_token_ratio"]["number"] == 1
