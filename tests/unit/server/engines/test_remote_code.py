"""Code of a checkpoint's own runs where it is trusted, and nowhere else; then every file is what the model is."""

import pytest
import torch

from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.loading import load_model
from lookonce_server.errors import ModelRefusedError

from ....support.remote_code import change, write_remote_code
from ....support.samples import PLAN, PROMPT, TENANT, picture


@pytest.fixture
def folder(tmp_path):
    return write_remote_code(tmp_path / "own")


def load(folder, **options):
    return load_model(str(folder), dtype=torch.float32, device="cpu", **options)


def test_it_does_not_run_unless_it_is_trusted(folder):
    (folder / "configuration_own.py").write_text("raise SystemExit('it has run')")
    with pytest.raises(ModelRefusedError, match="it needs code of its own; --trust-remote-code runs it"):
        load(folder)


@pytest.mark.anyio
async def test_a_model_and_a_processor_of_its_own_are_served_where_they_are_trusted(folder):
    engine = await TransformersEngine.load(
        str(folder),
        dtype=torch.float32,
        device="cpu",
        describe_prompt=PROMPT,
        max_running=1,
        trust_remote_code=True,
    )
    try:
        assert type(engine._runner.model).__name__ == "OwnForConditionalGeneration"
        assert type(engine._prompts._processor).__name__ == "OwnProcessor"
        assert (await engine.describe(picture(1), PLAN, TENANT)).text
    finally:
        await engine.close()


def test_its_code_is_part_of_what_the_model_is(folder):
    before = load(folder, trust_remote_code=True)
    (folder / "modeling_own.py").write_text((folder / "modeling_own.py").read_text() + "\n# another line\n")
    after = load(folder, trust_remote_code=True)
    assert before.checkpoint != after.checkpoint
    assert before.fingerprint != after.fingerprint


def test_code_in_another_repository_is_refused(folder):
    change(folder / "config.json", auto_map={"AutoConfig": "somebody/code--configuration_own.OwnConfig"})
    with pytest.raises(ModelRefusedError, match="its auto_map names code in another repository"):
        load(folder, trust_remote_code=True)
