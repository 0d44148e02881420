"""The bundled model's tokenizer and processor, made once; one thread, so that nothing fights for the cores."""

from collections.abc import Iterator

import pytest
import torch
from transformers import LlavaProcessor, PreTrainedTokenizerFast

from lookonce_scenes.tokenizer import build_processor


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def processor() -> LlavaProcessor:
    return build_processor()


@pytest.fixture(scope="session")
def tokenizer(processor) -> PreTrainedTokenizerFast:
    return processor.tokenizer
