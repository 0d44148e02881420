"""The training runs, resumes where it was killed, and never draws a held-out scene."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from lookonce_evaluation.data.scenes import HELD_OUT_SEED
from lookonce_scenes import train
from lookonce_scenes.album import SEED_STEP
from lookonce_scenes.train import FIRST_TRAINING_SEED, MIXED, Stage, Steps, Trainer, stages

TINY = (
    Stage("vision", 3, 2, 1e-3, is_vision=True),
    Stage("plain", 3, 2, 1e-3, growth=(0.25, 0.4)),
    Stage("context-drop", 2, 4, 1e-3, drop_rate=0.5, forms=(("single", 1), ("joined", 2))),
)


class KilledError(Exception):
    pass


class Killed(Trainer):
    """Dies when it begins a step, as a killed process does."""

    at: tuple[str, int]

    def _step(self, batch, optimizers, stage, step, *, vision):
        if (stage.name, step) == self.at:
            raise KilledError
        return super()._step(batch, optimizers, stage, step, vision=vision)


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    """A training of eight steps that saves its state after each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "stages", lambda scale: TINY)
        patch.setattr(train, "SAVE_EVERY", -1.0)
        yield


def run(trainer: type[Trainer], folder) -> None:
    folder.mkdir(exist_ok=True)
    trainer(folder, "cpu", 0, 1, 1.0).run()


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(Trainer, folder)
    return folder


def test_a_killed_training_resumes_to_the_same_weights(uninterrupted, tmp_path):
    folder = tmp_path / "killed"
    for at in (("vision", 1), ("plain", 2), ("context-drop", 0)):
        killer = type("KilledThere", (Killed,), {"at": at})
        with pytest.raises(KilledError):
            run(killer, folder)
    assert not (folder / "context-drop").exists()
    run(Trainer, folder)
    for file in ("plain/model.safetensors", "context-drop/model.safetensors", "state.safetensors"):
        whole, resumed = load_file(uninterrupted / file), load_file(folder / file)
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(weights, resumed[name]) for name, weights in whole.items()), file


def test_a_kill_while_saving_leaves_the_last_state(uninterrupted):
    """The state is replaced whole: half of a new one beside it does no harm."""
    before = (uninterrupted / "state.safetensors").read_bytes()
    (uninterrupted / "state.tmp").write_bytes(before[:1000])
    run(Trainer, uninterrupted)  # finished already: nothing left to train
    assert (uninterrupted / "state.safetensors").read_bytes() == before


def test_the_command_trains_on_every_core_and_writes_checkpoints(tmp_path):
    command = [
        sys.executable,
        "-m",
        "lookonce_scenes.train",
        "--scale",
        "0.0004",
        "--out",
        str(tmp_path / "run"),
    ]
    result = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"log.txt", "plain", "context-drop", "state.safetensors"} <= written
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert any(line.startswith("  single: all ") for line in lines)
    logged = [line.split()[:2] for line in lines if not line.startswith(" ")]
    assert logged == [["vision", "0"], ["vision", "again"], ["plain", "0"], ["context-drop", "0"]]
    for stage in ("plain", "context-drop"):
        model = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / stage)
        assert all(torch.isfinite(weights).all() for weights in model.parameters())


def test_ranks_share_each_steps_scenes():
    stage = Stage("all", 100, 16, 1e-3, drop_rate=0.5, forms=tuple(dict.fromkeys(MIXED)))
    for step in range(len(stage.forms)):
        whole, *halves = (Steps(stage, 7, rank, ranks)[step] for rank, ranks in ((0, 1), (0, 2), (1, 2)))
        assert whole.pixels.shape[1] == stage.forms[step][1]
        for one, *two in zip(whole[2:], *(half[2:] for half in halves), strict=True):
            assert torch.equal(one, torch.cat(two))


def test_a_batch_is_the_same_whenever_it_is_drawn():
    steps = Steps(TINY[2], 7, 0, 1)
    first, again = steps[1], (steps[0], steps[1])[1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_no_stage_draws_a_held_out_scene_or_anothers(scale):
    most = max(images for _, images in MIXED)
    reach = [
        range(
            FIRST_TRAINING_SEED * (number + 1),
            FIRST_TRAINING_SEED * (number + 1) + stage.steps * stage.batch + most * SEED_STEP,
        )
        for number, stage in enumerate(stages(scale))
    ]
    assert reach[0].start > HELD_OUT_SEED + 10_000_000
    assert all(before.stop <= after.start for before, after in pairwise(reach))


def test_scale_multiplies_the_steps():
    assert [stage.steps for stage in stages(0.5)] == [stage.steps // 2 for stage in stages()]


def test_a_stage_starts_easy_and_ends_slowly():
    stage = Stage("plain", 1000, 16, 1e-3, growth=(0.25, 0.4))
    assert [stage.exercise(step).max_objects for step in (0, 249, 250, 399, 400, 999)] == [2, 2, 3, 3, 4, 4]
    several = dataclasses.replace(stage, album_growth=(0.5, 0.6), forms=(("single", 1), ("joined", 2)))
    assert [several.exercise(step).max_objects for step in (400, 401, 501, 601)] == [4, 2, 3, 4]
    rates = [stage.learning_rate(step) for step in range(1000)]
    assert max(rates) == pytest.approx(1e-3, rel=0.1)
    assert rates.index(max(rates)) == pytest.approx(149, abs=2)
    assert rates[0] < 0.01 * max(rates)
    assert rates[-1] < 0.03 * max(rates)
    assert all(a >= b for a, b in pairwise(rates[150:]))
