"""What needs a GPU: both engines there, held to the transformers engine on the CPU in float32.

`LOOKONCE_TEST_DEVICE=cpu` runs the same tests on a CPU, as far as it goes, to try the tests themselves.
"""

import pytest
import torch

from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.transformers import TransformersEngine

from ..support.device import DEVICE
from ..support.samples import PROMPT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is here where there is no such device."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        for item in items:
            if "tests/gpu/" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="module")
async def reference(anyio_backend) -> TransformersEngine:
    engine = await TransformersEngine.load(
        str(CHECKPOINT), dtype=torch.float32, device="cpu", describe_prompt=PROMPT, max_running=8, max_queue=256
    )
    yield engine
    await engine.close()
