"""A real vLLM on this CPU, in float32, beside the transformers engine that its results are compared with."""

import os

import pytest
import torch

from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.vllm import VllmEngine

from .engines import PROMPT, start


@pytest.fixture(scope="session", autouse=True)
def quick_vllm():
    """vLLM reads its environment where it starts: nothing is compiled, which takes longer than all the tests."""
    os.environ.update({"TORCHDYNAMO_DISABLE": "1"})


@pytest.fixture(scope="session")
async def engine(anyio_backend) -> VllmEngine:
    engine = await start(CHECKPOINT)
    yield engine
    await engine.close()


@pytest.fixture(scope="session")
async def reference(anyio_backend) -> TransformersEngine:
    engine = await TransformersEngine.load(
        str(CHECKPOINT), dtype=torch.float32, device="cpu", describe_prompt=PROMPT, max_running=8, max_queue=256
    )
    yield engine
    await engine.close()
