"""The bundled model under evaluation, loaded once."""

from collections.abc import Iterator

import pytest
import torch

from lookonce_evaluation.retention import Evaluation
from lookonce_scenes import CHECKPOINT
from lookonce_server.settings import Settings


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.model_construct()  # the defaults, whatever the environment says


@pytest.fixture(scope="session")
def evaluation(settings) -> Evaluation:
    return Evaluation(str(CHECKPOINT), settings)
