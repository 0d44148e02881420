"""The engines on a GPU make the contexts and give the answers of the transformers engine on a CPU, in float32."""

import asyncio
import importlib.util
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import torch

from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.transformers import TransformersEngine

from ..support.device import DEVICE
from ..support.engine_passes import answered, context_of, fully
from ..support.samples import PLAN, PROMPT, picture

pytestmark = pytest.mark.anyio

QUESTIONS = ("How many objects are there?", "What is at the center?", "Find the red object.", "Is there a star?")
SEEDS = (31, 32, 33)
EAGER = {"enforce_eager": True}
# vLLM's options by name: each is one way in which a step may escape Python, or be computed otherwise.
FLOAT32 = {
    "eager": EAGER,
    "graphs": {"compilation_config": {"cudagraph_mode": "FULL_AND_PIECEWISE"}},
    "piecewise": {"compilation_config": {"cudagraph_mode": "PIECEWISE"}},
    "synchronous": EAGER | {"async_scheduling": False},
    "chunked": EAGER | {"max_num_batched_tokens": 64, "max_num_seqs": 16},
    "no prefix cache": EAGER | {"enable_prefix_caching": False},
    "triton": EAGER | {"attention_backend": "TRITON_ATTN"},
    "flex": EAGER | {"attention_backend": "FLEX_ATTENTION"},
}
# In half precision answers are held to the same engine's full pass.
HALF = {
    "flash": {"attention_backend": "FLASH_ATTN"},
    "flashinfer": {"attention_backend": "FLASHINFER"},
    "triton": {"attention_backend": "TRITON_ATTN"},
    "graphs": {},
    "fp8 cache": {"kv_cache_dtype": "fp8"},
}
ON_CPU = ("eager", "synchronous", "no prefix cache")


@asynccontextmanager
async def running(dtype: torch.dtype, **options):
    """A vLLM of the bundled model."""
    from lookonce_server.engines.vllm import VllmEngine

    engine = await VllmEngine.load(
        str(CHECKPOINT),
        dtype=dtype,
        describe_prompt=PROMPT,
        max_queue=256,
        options={"kv_cache_memory_bytes": 256 * 1024**2, "gpu_memory_utilization": 0.3} | options,
    )
    try:
        yield engine
    finally:
        await engine.close()


def check_installed(options: dict) -> None:
    if options.get("attention_backend") == "FLASHINFER" and importlib.util.find_spec("flashinfer") is None:
        pytest.skip("flashinfer is not installed")


async def assert_equal(engine, reference, *, tolerance: float) -> None:
    """Contexts and answers are those of the reference, alone and all at once."""
    for seed in SEEDS:
        made, expected = [await context_of(one, picture(seed)) for one in (engine, reference)]
        assert made.description == expected.description
        assert torch.equal(made.kept_indices, expected.kept_indices)
        torch.testing.assert_close(made.scores, expected.scores, atol=tolerance, rtol=0)
        torch.testing.assert_close(made.keys.dequantize(), expected.keys.dequantize(), atol=tolerance, rtol=0)
        torch.testing.assert_close(made.values.dequantize(), expected.values.dequantize(), atol=tolerance, rtol=0)
        for question in QUESTIONS:
            told = [(await answered(one, made, question)).text for one in (engine, reference)]
            assert told[0] == told[1]
            told = [(await fully(one, picture(seed), question)).text for one in (engine, reference)]
            assert told[0] == told[1]
    contexts = [await context_of(engine, picture(seed)) for seed in SEEDS]
    pairs = [(context, question) for context in contexts for question in QUESTIONS]
    alone = [(await answered(engine, *pair)).text for pair in pairs]
    together = await asyncio.gather(*(answered(engine, *pair) for pair in pairs))
    assert [one.text for one in together] == alone


async def assert_true_to_itself(engine) -> None:
    """With everything kept, an answer is that of the full pass over the same turns, but for ties of rounding."""
    same = []
    for seed in SEEDS:
        context = await context_of(engine, picture(seed), retention=1.0)
        for question in QUESTIONS:
            turns = (Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", (question,)))
            whole = await fully(engine, picture(seed), Conversation(turns))
            same.append((await answered(engine, context, question)).text == whole.text)
    assert sum(same) >= len(same) - 1, same


async def test_the_embedded_engine(reference):
    engine = await TransformersEngine.load(
        str(CHECKPOINT), dtype=torch.float32, device=DEVICE, describe_prompt=PROMPT, max_running=8, max_queue=256
    )
    try:
        await assert_equal(engine, reference, tolerance=1e-3)
    finally:
        await engine.close()


@pytest.mark.parametrize("name", FLOAT32)
async def test_vllm_in_float32(reference, name):
    if DEVICE == "cpu" and name not in ON_CPU:
        pytest.skip("for a GPU")
    async with running(torch.float32, **FLOAT32[name]) as engine:
        await assert_equal(engine, reference, tolerance=1e-3)


@pytest.mark.parametrize("name", HALF)
async def test_vllm_in_half_precision(name):
    if DEVICE == "cpu" and name != "graphs":
        pytest.skip("for a GPU")
    check_installed(HALF[name])
    options = HALF[name] | (EAGER if DEVICE == "cpu" else {})
    async with running(torch.bfloat16, **options) as engine:
        await assert_true_to_itself(engine)


async def test_vllm_on_two_devices(reference):
    if DEVICE == "cpu" or torch.cuda.device_count() < 2:
        pytest.skip("there are no two devices")
    async with running(torch.float32, tensor_parallel_size=2, **EAGER) as engine:
        await assert_equal(engine, reference, tolerance=1e-3)


async def test_a_context_of_the_gpu_is_answered_on_the_cpu(reference):
    """One store serves both: what is described here is answered there."""
    engine = await TransformersEngine.load(
        str(CHECKPOINT), dtype=torch.float32, device=DEVICE, describe_prompt=PROMPT, max_running=8, max_queue=256
    )
    try:
        for seed in SEEDS:
            made = await context_of(engine, picture(seed), replace(PLAN, retention=0.1), precision="int8")
            for question in QUESTIONS:
                told = [(await answered(one, made, question)).text for one in (engine, reference)]
                assert told[0] == told[1]
    finally:
        await engine.close()
