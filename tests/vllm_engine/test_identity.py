"""What vLLM runs is the checkpoint that it is named by."""

from pathlib import Path

import pytest
from vllm.v1.engine.async_llm import AsyncLLM

from lookonce_server.errors import ModelRefusedError

from ..support.checkpoint_copies import WEIGHTS, copy_checkpoint, write_other_weights
from ..support.remote_code import write_remote_code
from ..support.samples import PLAN, TENANT, picture
from .engines import fully, start

pytestmark = pytest.mark.anyio

QUESTION = "Find the red object."


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the bundled model that may be written to."""
    return copy_checkpoint(tmp_path / "copy")


@pytest.fixture
def other_weights(tmp_path) -> Path:
    """A file of weights of the same shapes and names, all of them other ones."""
    return write_other_weights(tmp_path / "other.safetensors")


async def test_a_running_model_is_its_own(folder, other_weights, engine, reference):
    """Bytes that are written into the file do not reach it. An option that nobody called harmless counts."""
    own = await start(folder, max_num_seqs=3, generation_config="vllm")
    try:
        assert own.facts.checkpoint == reference.facts.checkpoint
        assert own.facts.fingerprint != reference.facts.fingerprint == engine.facts.fingerprint
        with (folder / WEIGHTS).open("r+b") as file:  # the same file, as `cp` and `rsync --inplace` write
            file.write(other_weights.read_bytes())
        found = await fully(own, picture(31), QUESTION)
    finally:
        await own.close()
    assert found.text == (await fully(engine, picture(31), QUESTION)).text


async def test_a_checkpoint_that_changes_while_vllm_loads_it_is_refused(folder, other_weights, monkeypatch):
    right = AsyncLLM.from_engine_args

    def and_deploy(engine_args):
        llm = right(engine_args)
        other_weights.replace(folder / WEIGHTS)
        return llm

    monkeypatch.setattr(AsyncLLM, "from_engine_args", and_deploy)
    with pytest.raises(ModelRefusedError, match="changed while the model was loaded"):
        await start(folder)


async def test_weights_that_are_no_safetensors_are_not_read(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelRefusedError, match=r"has no \*\.safetensors"):
        await start(folder)


async def test_code_in_another_repository_is_refused_even_if_it_is_trusted(folder):
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": ["somebody/code--modeling.Model", null]}}')
    with pytest.raises(ModelRefusedError, match="its auto_map names code in another repository"):
        await start(folder, trust_remote_code=True)


async def test_code_of_the_checkpoint_runs_where_it_is_trusted(tmp_path):
    folder = write_remote_code(tmp_path / "own")
    with pytest.raises(ModelRefusedError, match="it needs code of its own; --trust-remote-code runs it"):
        await start(folder)
    own = await start(folder, trust_remote_code=True)
    try:
        assert type(own._prompts._processor).__name__ == "OwnProcessor"
        assert (await own.describe(picture(1), PLAN, TENANT)).text
    finally:
        await own.close()
