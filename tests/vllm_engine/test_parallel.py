"""Tensor and data parallelism, with two ranks on this CPU: the same contexts and the same answers."""

import asyncio

import pytest
import torch

from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.vllm import options
from lookonce_server.engines.vllm.connector.heads import heads_of, join_heads
from lookonce_server.errors import EngineError

from ..support.samples import PLAN, TENANT, picture
from .engines import answered, context_of, start
from .faults import BLIND, VARIABLE, arm, is_armed

pytestmark = pytest.mark.anyio

QUESTIONS = ("How many objects are there?", "What is at the center?", "Find the red object.")


@pytest.mark.parametrize("option", ["tensor_parallel_size", "data_parallel_size"])
async def test_two_ranks_are_as_good_as_one(reference, monkeypatch, tmp_path, option):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "fault"))
    monkeypatch.setattr(options, "CONNECTOR", "Faulty")
    monkeypatch.setattr(options, "CONNECTOR_MODULE", "tests.vllm_engine.faults")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else vLLM wants a memory node for each rank
    if option == "data_parallel_size":  # and captures without reading from the cache, as a quantised one needs
        monkeypatch.setenv(BLIND, "1")
    engine = await start(CHECKPOINT, **{option: 2})
    try:
        assert engine._captures._reads_cache is (option == "tensor_parallel_size")
        for seed, rows in ((71, "generated"), (72, "both"), (73, "query")):
            made, expected = [await context_of(e, picture(seed), rows=rows, retention=0.3) for e in (engine, reference)]
            torch.testing.assert_close(made.scores, expected.scores, atol=1e-4, rtol=0)
            assert torch.equal(made.kept_indices, expected.kept_indices)
            torch.testing.assert_close(made.keys.dequantize(), expected.keys.dequantize(), atol=1e-4, rtol=0)
            torch.testing.assert_close(made.values.dequantize(), expected.values.dequantize(), atol=1e-4, rtol=0)
            right = [(await answered(reference, expected, q)).text for q in QUESTIONS]
            for context in (made, expected):  # of any number of ranks
                for _ in range(2):  # of any replica
                    found = await asyncio.gather(*(answered(engine, context, q) for q in QUESTIONS))
                    assert [one.text for one in found] == right
        if option == "tensor_parallel_size":
            await one_rank_fails(engine)
    finally:
        await engine.close()


async def one_rank_fails(engine):
    """The other one does not wait for it for ever."""
    right = (await engine.describe(picture(71), PLAN, TENANT)).kept
    for fault in ("forward", "allocation", "end"):
        for rank in (0, 1):
            arm(fault, rank)
            with pytest.raises(EngineError, match="could not be captured"):
                await asyncio.wait_for(engine.describe(picture(71), PLAN, TENANT), 120)
            assert not is_armed()
            assert torch.equal((await engine.describe(picture(71), PLAN, TENANT)).kept, right)


@pytest.mark.parametrize(("heads", "ranks"), [(8, 1), (8, 2), (8, 8), (2, 4), (4, 16), (1, 8), (3, 3)])
def test_shares_of_all_ranks_are_all_heads_in_order(heads, ranks):
    whole = torch.arange(heads).view(1, heads, 1, 1)
    shards = [whole[:, heads_of(rank, ranks, heads)] for rank in range(ranks)]
    assert {shard.shape[1] for shard in shards} == {max(1, heads // ranks)}
    assert torch.equal(join_heads(shards, heads), whole)
