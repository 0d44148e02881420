"""The bundled model under evaluation, loaded once."""

import pytest

from lookonce_evaluation.subject import Subject
from lookonce_scenes import CHECKPOINT
from lookonce_server.settings import Settings


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.model_construct()  # the defaults, whatever the environment says


@pytest.fixture(scope="session")
def subject(settings) -> Subject:
    return Subject.load(str(CHECKPOINT), settings)
