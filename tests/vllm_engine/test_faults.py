"""Nothing of ours raises into vLLM: whatever fails costs the request concerned, and never makes an answer wrong."""

import asyncio
import os
import shutil
import subprocess
from contextlib import contextmanager, suppress

import pytest
import torch

from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.vllm import VllmEngine, options
from lookonce_server.engines.vllm.connector.connector import ContextConnector
from lookonce_server.engines.vllm.connector.worker import WorkerExtension
from lookonce_server.errors import ContextLostError, EngineError

from ..support.samples import PLAN, PROMPT, TENANT, picture
from .engines import SMALL, answered, context_of, fully
from .faults import ENTRY_POINTS, VARIABLE, arm, disarm, is_armed, most_held

pytestmark = pytest.mark.anyio

SEEDS = (51, 52, 53)
QUESTIONS = ("What is at the center?", "How many objects are there?", "Find the red object.")
RETENTION = 0.5  # three full blocks of 32
AT_START = {"register_kv_caches"}  # called before any request
HARMLESS_TO_HITS = {
    "request_finished",
    "bind_connector_metadata",
    "wait_for_save",
    "get_block_ids_with_load_errors",
    "forward",
    "allocation",
}
OF_A_STEP = {"build_connector_meta", "start_load_kv"}  # it cannot be known which of the step's requests is concerned
WITHOUT_WORK = {"wait_for_layer_load", "save_kv_layer"}  # nothing in them can fail
FAULTS = [name for name in ENTRY_POINTS if name not in AT_START | WITHOUT_WORK] + ["layer", "forward", "allocation"]


def test_every_method_that_vllm_calls_is_guarded():
    assert len(ENTRY_POINTS) >= 11
    for name in ENTRY_POINTS:
        assert getattr(vars(ContextConnector)[name], "guarded", False), name
    ours = [name for name in vars(WorkerExtension) if not name.startswith("_")]
    assert ours
    assert all(vars(WorkerExtension)[name].guarded for name in ours)


def test_a_worker_that_cannot_be_attached_says_why(monkeypatch):
    monkeypatch.setattr("lookonce_server.engines.vllm.connector.worker.get_kv_transfer_group", lambda: 1 / 0)
    assert WorkerExtension().lookonce_attach() == ["division by zero."]


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A file system of 8 MiB for those who may make one, and any folder for others."""
    place = tmp_path_factory.mktemp("handover")
    if os.geteuid() != 0:
        yield place
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "lookonce-test", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture(scope="module")
async def faulty(anyio_backend, tmp_path_factory, small_disk):
    """An engine in which faults can be provoked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("fault") / "next"))
        patch.setattr(options, "CONNECTOR", "Faulty")
        patch.setattr(options, "CONNECTOR_MODULE", "tests.vllm_engine.faults")
        engine = await VllmEngine.load(
            str(CHECKPOINT),
            dtype=torch.float32,
            describe_prompt=PROMPT,
            max_queue=256,
            options=SMALL,
            handover_dir=small_disk,
        )
        yield engine
        await engine.close()


@contextmanager
def nothing_can_be_written(folder):
    """A full disk for root, who may make one; for others a folder that they may not write to."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    filler = folder.parent / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    yield
    filler.unlink()


@pytest.fixture(scope="module")
async def made(reference):
    """Contexts, and the answers that are right for each and for its whole picture."""
    made = [await context_of(reference, picture(seed), retention=RETENTION) for seed in SEEDS]
    right = [(await answered(reference, context, question)).text for context in made for question in QUESTIONS]
    whole = (await fully(reference, picture(SEEDS[0]), QUESTIONS[0])).text
    described = (await reference.describe(picture(SEEDS[1]), PLAN, TENANT)).text
    assert len({tuple(right[i : i + len(QUESTIONS)]) for i in range(0, len(right), len(QUESTIONS))}) == len(SEEDS)
    return made, right, whole, described


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_costs_its_request_and_nothing_else(faulty, made, fault):
    """It meets answers from contexts, then a describe pass, then a full pass among answers from contexts."""
    contexts, right, whole, described = made

    def hits():
        return [answered(faulty, context, question) for context in contexts for question in QUESTIONS]

    async def all_failed_or_right(asked, expected):
        await faulty._client._llm.reset_prefix_cache()  # so that every context is loaded
        arm(fault)
        found = await asyncio.gather(*asked, return_exceptions=True)
        fired = not is_armed()
        disarm()
        failed = [isinstance(one, EngineError) for one in found]
        assert [one if bad else one.text for one, bad in zip(found, failed, strict=True)] == [
            one if bad else text for one, text, bad in zip(found, expected, failed, strict=True)
        ]
        assert [one.text for one in await asyncio.gather(*hits())] == right  # and it goes on
        return fired, failed

    fired, failed = await all_failed_or_right(hits(), right)
    assert fired or fault in ("forward", "allocation")
    assert any(failed) is (fault not in HARMLESS_TO_HITS)
    assert not all(failed) or fault in OF_A_STEP
    fired, failed = await all_failed_or_right([faulty.describe(picture(SEEDS[1]), PLAN, TENANT)], [described])
    assert fired or fault == "layer"
    fired, failed = await all_failed_or_right(
        [fully(faulty, picture(SEEDS[0]), QUESTIONS[0]), *hits()], [whole, *right]
    )
    assert not failed[0]
    assert (await faulty.describe(picture(SEEDS[1]), PLAN, TENANT)).text == described
    assert faulty.queue_depth == 0
    await faulty.ping()


async def test_memory_that_runs_out_costs_one_describe_pass(faulty, made):
    arm("allocation")
    with pytest.raises(EngineError, match=r"could not be captured: .*allocate"):
        await faulty.describe(picture(SEEDS[1]), PLAN, TENANT)
    assert (await faulty.describe(picture(SEEDS[1]), PLAN, TENANT)).text == made[3]


async def test_what_is_captured_does_not_grow_with_the_number_of_describe_passes(faulty):
    pictures = [picture(seed) for seed in range(60, 72)]
    most_held()
    await faulty.describe(pictures[0], PLAN, TENANT)
    assert most_held() > 0
    for one in pictures:
        await faulty.describe(one, PLAN, TENANT)
    alone = most_held()
    await asyncio.gather(*(faulty.describe(one, PLAN, TENANT) for one in pictures))
    assert alone / 2 < most_held() <= 2 * alone
    # The queries of a description in the window's layers, and nothing of the 203 tokens before it.
    text = faulty._config.get_text_config()
    row = text.num_attention_heads * text.head_dim * 4
    assert alone <= (PLAN.max_tokens + 1) * (PLAN.window[1] - PLAN.window[0]) * row


async def test_a_full_disk_costs_the_requests_that_need_it_and_room_heals_it(faulty, made):
    contexts, right, whole, described = made
    with nothing_can_be_written(faulty._files.folder):
        for context in contexts:
            with pytest.raises(ContextLostError, match="could not be handed to vLLM"):
                await answered(faulty, context, QUESTIONS[0])
        with pytest.raises(EngineError, match="could not be captured"):
            await faulty.describe(picture(SEEDS[1]), PLAN, TENANT)
        assert (await fully(faulty, picture(SEEDS[0]), QUESTIONS[0])).text == whole
    assert list(faulty._files.folder.iterdir()) == []
    assert [(await answered(faulty, c, q)).text for c in contexts for q in QUESTIONS] == right
    assert (await faulty.describe(picture(SEEDS[1]), PLAN, TENANT)).text == described


async def test_a_folder_that_is_cleaned_away_costs_nothing_that_comes_later(faulty, made):
    contexts, right, _, described = made
    await faulty._client._llm.reset_prefix_cache()
    shutil.rmtree(faulty._files.folder)
    assert [(await answered(faulty, c, q)).text for c in contexts for q in QUESTIONS] == right
    assert (await faulty.describe(picture(SEEDS[1]), PLAN, TENANT)).text == described


async def test_a_folder_that_is_cleaned_away_meanwhile_costs_one_describe_pass(faulty, made, monkeypatch):
    """Between the request and its result, where the worker writes to it: as by a cleaner of temporary files."""
    new_path = faulty._files.new_path

    def vanishing():
        path = new_path()
        shutil.rmtree(path.parent)
        return path

    with monkeypatch.context() as patch:
        patch.setattr(faulty._files, "new_path", vanishing)
        with pytest.raises(EngineError, match="could not be captured: no result was written to"):
            await faulty.describe(picture(SEEDS[1]), PLAN, TENANT)
    assert (await faulty.describe(picture(SEEDS[1]), PLAN, TENANT)).text == made[3]
