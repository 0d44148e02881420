"""Nothing of ours raises into vLLM: whatever fails costs the request concerned, and never makes an answer wrong."""

import asyncio

import pytest

from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.vllm import options
from lookonce_server.engines.vllm.connector import ContextConnector
from lookonce_server.engines.vllm.worker import WorkerExtension
from lookonce_server.errors import EngineError

from ..unit.server.samples import PLAN, TENANT, picture
from .engines import answered, context_of, fully, start
from .faults import ENTRY_POINTS, VARIABLE, arm, is_armed

pytestmark = pytest.mark.anyio

QUESTION = "What is at the center?"
RETENTION = 0.5  # three full blocks of 32
AT_START = {"register_kv_caches"}  # called before any request
WITHOUT_WORK = {"wait_for_layer_load", "save_kv_layer"}  # nothing in them can fail
FAULTS = [name for name in ENTRY_POINTS if name not in AT_START | WITHOUT_WORK] + ["layer", "forward"]


def test_every_method_that_vllm_calls_is_guarded():
    assert len(ENTRY_POINTS) >= 11
    for name in ENTRY_POINTS:
        assert getattr(vars(ContextConnector)[name], "guarded", False), name
    ours = [name for name in vars(WorkerExtension) if not name.startswith("_")]
    assert ours
    assert all(vars(WorkerExtension)[name].guarded for name in ours)


def test_a_worker_that_cannot_be_attached_says_why(monkeypatch):
    monkeypatch.setattr("lookonce_server.engines.vllm.worker.get_kv_transfer_group", lambda: 1 / 0)
    assert WorkerExtension().lookonce_attach() == ["division by zero."]


@pytest.fixture(scope="module")
async def faulty(anyio_backend, tmp_path_factory):
    """An engine in which faults can be provoked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("fault") / "next"))
        patch.setattr(options, "CONNECTOR", "Faulty")
        patch.setattr(options, "CONNECTOR_MODULE", "tests.vllm_engine.faults")
        engine = await start(CHECKPOINT)
        yield engine
        await engine.close()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_costs_its_request_and_nothing_else(faulty, reference, fault):
    """One request at a time, so that it is known whose fault it is; then many at once."""
    seeds = [100 + 3 * FAULTS.index(fault) + i for i in range(3)]
    made = [await context_of(reference, picture(seed), retention=RETENTION) for seed in seeds]
    right = [(await answered(reference, context, QUESTION)).text for context in made]
    right.append((await fully(reference, picture(seeds[0]), QUESTION)).text)

    async def everything():
        asked = [answered(faulty, context, QUESTION) for context in made]
        return await asyncio.gather(
            *asked,
            fully(faulty, picture(seeds[0]), QUESTION),
            faulty.describe(picture(seeds[1]), PLAN, TENANT),
            return_exceptions=True,
        )

    arm(fault)
    *texts, description = await everything()
    assert not is_armed(), "it never happened"
    for found, expected in zip(texts, right, strict=True):
        assert isinstance(found, EngineError) or found.text == expected
    failed = [one for one in (*texts, description) if isinstance(one, Exception)]
    assert all(isinstance(one, EngineError) for one in failed), failed
    assert len(failed) <= 3, failed
    *texts, description = await everything()  # and it goes on
    assert [found.text for found in texts] == right
    assert description.text
    assert faulty.queue_depth == 0
    await faulty.ping()
