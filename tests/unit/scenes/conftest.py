"""The bundled model's tokenizer and processor, made once."""

import pytest
from transformers import LlavaProcessor, PreTrainedTokenizerFast

from lookonce_scenes.tokenizer import build_processor


@pytest.fixture(scope="session")
def processor() -> LlavaProcessor:
    return build_processor()


@pytest.fixture(scope="session")
def tokenizer(processor) -> PreTrainedTokenizerFast:
    return processor.tokenizer
