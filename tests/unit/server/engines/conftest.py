"""Engines on models of plain RoPE and of M-RoPE."""

import asyncio
from collections.abc import Iterator

import pytest
import torch

from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.loading import LoadedModel, load_model

from ....support.qwen2_vl import write_qwen2_vl


@pytest.fixture(scope="module")
def qwen_model(tmp_path_factory) -> LoadedModel:
    """A tiny Qwen2-VL, whose answers hang on everything."""
    return load_model(str(write_qwen2_vl(tmp_path_factory.mktemp("qwen2-vl"))), dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module", params=["llava", "qwen2-vl"])
def rope_model(request, loaded) -> LoadedModel:
    """The bundled model with plain RoPE, and one with M-RoPE."""
    return loaded if request.param == "llava" else request.getfixturevalue("qwen_model")


@pytest.fixture(scope="module")
def rope_engine(rope_model) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(rope_model)
    yield engine
    asyncio.run(engine.close())
