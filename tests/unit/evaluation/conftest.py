"""The bundled model under evaluation, loaded once."""

import pytest

from lookonce_evaluation.retention import Evaluation
from lookonce_scenes import CHECKPOINT
from lookonce_server.settings import Settings


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.model_construct()  # the defaults, whatever the environment says


@pytest.fixture(scope="session")
def evaluation(settings) -> Evaluation:
    return Evaluation(str(CHECKPOINT), settings)
