"""Families' tiny checkpoints in vLLM: against plain transformers, and beside the embedded engine over one Redis.

A start takes twenty seconds of a core. So those that people run most are tried always, and the others for the table of
docs/models.md: `make models` sets LOOKONCE_TEST_EVERY_FAMILY.
"""

import asyncio
import os
from dataclasses import replace

import pytest
import torch

from lookonce_cache import open_store
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.errors import ModelRefusedError

from ..support.checkpoints import CHECKPOINTS, checkpoint_folder
from ..support.family_measures import (
    IMAGE,
    MEASURED_PLAN,
    QUESTION,
    SHARED_FAMILIES,
    VLLM_FAMILIES,
    VLLM_IMAGES,
    check_float32,
)
from ..support.redis_server import RedisServer
from ..support.samples import PROMPT, Bench, encoded
from .engines import start

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of GLM's processor
]

SERVED = [name for name, checkpoint in CHECKPOINTS.items() if checkpoint.why_not_vllm is None]
OTHERS = [name for name in SERVED if name not in VLLM_FAMILIES]
TRIED = [*VLLM_FAMILIES, *(OTHERS if os.environ.get("LOOKONCE_TEST_EVERY_FAMILY") else ())]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """The folder of a family's checkpoint."""
    root = tmp_path_factory.mktemp("families")
    return lambda family: checkpoint_folder(family, root)


@pytest.fixture(scope="module")
async def ends(anyio_backend):
    """Engines that end while others start."""
    tasks = []
    yield tasks
    await asyncio.gather(*tasks)


@pytest.fixture(scope="module")
async def family(request, folder_of, ends):
    """A family's name, and an engine of it."""
    engine = await start(folder_of(request.param), max_images=2, max_model_len=1024)
    yield request.param, engine
    ends.append(asyncio.ensure_future(engine.close()))


@pytest.mark.parametrize("family", TRIED, indirect=True)
async def test_answers_are_those_of_plain_transformers(family, folder_of, record_property):
    name, engine = family
    assert engine.facts.unjoinable is None
    image, is_otherwise = VLLM_IMAGES.get(name, IMAGE), CHECKPOINTS[name].is_otherwise_in_vllm
    await check_float32(engine, folder_of(name), record_property, image, to_itself=is_otherwise)


@pytest.mark.parametrize("family", SHARED_FAMILIES, indirect=True)
async def test_either_engine_answers_from_the_others_contexts(family, folder_of):
    """Over one Redis: each picture is described by one engine, and asked about by both, who say the same."""
    name, engine = family
    other = await TransformersEngine.load(
        str(folder_of(name)), dtype=torch.float32, device="cpu", describe_prompt=PROMPT, max_running=1, max_queue=8
    )
    with RedisServer() as redis:
        stores = [open_store(redis.url) for _ in range(2)]
        try:
            plan = replace(MEASURED_PLAN, retention=0.25)
            benches = [Bench(one, store, plan) for one, store in zip((engine, other), stores, strict=True)]
            for number, maker in enumerate(benches):
                image = encoded(IMAGE.rotate(180 * number), "PNG")
                made = await maker.create(image)
                asked = [await bench.ask(image, QUESTION) for bench in benches]
                assert {one.lookup.cache for one in asked} == {"hit"}
                assert asked[0].started == asked[1].started
                assert asked[0].text == asked[1].text != ""
                assert {bench.context_id(image) for bench in benches} == {made.id}
        finally:
            for store in stores:
                await store.close()
            await other.close()


async def test_gemma_3_is_refused_with_its_reason_and_the_engine_that_serves_it(folder_of):
    with pytest.raises(ModelRefusedError, match=r"sliding attention window .* `--engine transformers` serves such"):
        await start(folder_of("gemma3"))
