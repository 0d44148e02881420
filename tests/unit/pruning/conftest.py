"""The tiny models as fixtures, without gradients."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig

from ...support.tiny_models import FAMILIES, TEXT, Tiny, build_llava, built


@pytest.fixture(scope="module", autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(params=list(FAMILIES))
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return built(request.param)


@pytest.fixture
def llava() -> Tiny:
    return built("llava")


@pytest.fixture
def qwen2_vl() -> Tiny:
    return built("qwen2-vl")


@pytest.fixture
def llava_with():
    """A LLaVA around another text model, given by its config class and what differs from TEXT."""

    def build(config: type[PreTrainedConfig], **options: Any) -> Tiny:
        torch.manual_seed(0)
        tiny = build_llava(config(**{**TEXT, **options}))
        tiny.model.eval()
        return tiny

    return build
