"""The models under evaluation, loaded once, and one describe pass of each image."""

import pytest

from lookonce_evaluation.describe import DescribePass, describe
from lookonce_evaluation.model import EvalModel
from lookonce_scenes import CHECKPOINT
from lookonce_server.settings import Settings

from ...support.qwen2_vl import write_qwen2_vl


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.model_construct()  # the defaults, whatever the environment says


@pytest.fixture(scope="session")
def model(settings) -> EvalModel:
    return EvalModel.load(str(CHECKPOINT), settings)


@pytest.fixture(scope="session")
def qwen2_vl(tmp_path_factory) -> str:
    """A checkpoint of another family, of random weights: its positions have three components."""
    return str(write_qwen2_vl(tmp_path_factory.mktemp("qwen2-vl")))


@pytest.fixture(scope="session")
def described(model, settings):
    """A function that describes a case with the attention of the server's window; each image is described once."""
    passes: dict[str, DescribePass] = {}

    def describe_once(case) -> DescribePass:
        if case.name not in passes:
            passes[case.name] = describe(model, case, model.window(settings.window))
        return passes[case.name]

    return describe_once
