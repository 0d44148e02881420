"""Each family's tiny checkpoint in the embedded engine, against plain transformers with eager attention."""

import pytest
import torch

from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.batch import layer_problem

from ..support.checkpoints import CHECKPOINTS, checkpoint_folder
from ..support.family_measures import BFLOAT16_FAMILIES, check_bfloat16, check_float32
from ..support.samples import PROMPT

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of GLM's processor
]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """The folder of a family's checkpoint."""
    root = tmp_path_factory.mktemp("families")
    return lambda family: checkpoint_folder(family, root)


async def start(folder, dtype=torch.float32) -> TransformersEngine:
    return await TransformersEngine.load(
        str(folder), dtype=dtype, device="cpu", describe_prompt=PROMPT, max_running=1, max_queue=8
    )


@pytest.mark.parametrize("family", CHECKPOINTS)
async def test_answers_are_those_of_plain_transformers(family, folder_of, record_property):
    """Full passes, and contexts with all and with a quarter of the image; several contexts are joined."""
    engine = await start(folder_of(family))
    try:
        assert engine.facts.unjoinable is None
        assert (engine._batch is None) == (layer_problem(engine._runner.model.config.get_text_config()) is not None)
        await check_float32(engine, folder_of(family), record_property)
    finally:
        await engine.close()


@pytest.mark.parametrize("family", BFLOAT16_FAMILIES)
async def test_bfloat16_rounds_no_more_than_plain_transformers_does(family, folder_of, record_property):
    engine = await start(folder_of(family), torch.bfloat16)
    try:
        await check_bfloat16(engine, folder_of(family), record_property)
    finally:
        await engine.close()
