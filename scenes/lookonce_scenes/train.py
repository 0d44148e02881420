"""Train the bundled model from scratch: `python -m lookonce_scenes.train`.

Three stages, from one seed, in one go (docs/research/scenes.md has the figures): the tower learns to see, the whole
model learns to describe and answer, and context-drop teaches it to answer from part of the image tokens. The state
is saved regularly, and the same command resumes from it.
"""

import argparse
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from lookonce_scenes.model import build_model, save_checkpoint
from lookonce_scenes.objective import Batch, Losses, Objective
from lookonce_scenes.optimizer import Optimizers, load_state, save_state
from lookonce_scenes.packing import SYSTEM_PROMPTS, Exercise, Packer, image_prefix
from lookonce_scenes.tokenizer import build_tokenizer
from lookonce_scenes.training_attention import use_training_attention
from lookonce_scenes.world import render

FIRST_TRAINING_SEED = 1_000_000_000
"""Scenes of lower seeds are held out: no training ever draws them."""
TEXT_TOKENS = 192
SAVE_EVERY = 120.0
"""Seconds between two saved states."""


@dataclass(frozen=True)
class Stage:
    """A part of the training, with a cosine schedule of its own."""

    name: str
    steps: int
    batch: int
    rate: float
    drop_rate: float = 0.0
    # Shares of the stage after which three, and four, objects are drawn; it starts with two.
    growth: tuple[float, float] = (0.0, 0.0)

    def exercise(self, step: int) -> Exercise:
        """Return the exercise of a step."""
        done = step / self.steps
        return Exercise(2 + sum(done >= share for share in self.growth), self.drop_rate)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up over 150 steps, then cosine to 2%."""
        return self.rate * min(1.0, (step + 1) / 150) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / self.steps)))


def stages(scale: float = 1.0) -> tuple[Stage, ...]:
    """Return the stages; `scale` multiplies their steps."""
    return (
        Stage("vision", round(2000 * scale), 32, 1.5e-3),
        Stage("plain", round(2600 * scale), 16, 1e-3, growth=(0.25, 0.4)),
        Stage("context-drop", round(1400 * scale), 16, 6e-4, drop_rate=0.5),
    )


class Steps(Dataset[Batch]):
    """Make the batch of each step from its number.

    Any run, resumed or not, sees the same batches.
    """

    def __init__(self, stage: Stage, seed: int, rank: int, ranks: int) -> None:
        self._stage, self._seed, self._rank, self._ranks = stage, seed, rank, ranks
        self._tokenizer = build_tokenizer()
        self._packer = Packer(self._tokenizer, TEXT_TOKENS)

    def __getitem__(self, step: int) -> Batch:
        """Batch of one rank at one step."""
        size = self._stage.batch // self._ranks
        first = self._seed + (step * self._ranks + self._rank) * size
        prefix = image_prefix(self._tokenizer, SYSTEM_PROMPTS[step % 12] if step % 12 < len(SYSTEM_PROMPTS) else None)
        made = [self._packer.pack(first + i, self._stage.exercise(step), len(prefix)) for i in range(size)]
        pixels = torch.stack([torch.from_numpy(render(scene)) for scene, _ in made])
        columns = zip(*(sample for _, sample in made), strict=True)
        stacked = [torch.stack([torch.from_numpy(array) for array in column]) for column in columns]
        return Batch(torch.tensor(prefix), pixels, *stacked)


class Trainer:
    """Train one rank.

    On a CPU two ranks of one thread each beat one of two; on a GPU there is one.
    """

    def __init__(self, folder: Path, device: str, rank: int, ranks: int, scale: float) -> None:
        self._folder, self._device, self._rank, self._ranks = folder, device, rank, ranks
        self._stages = stages(scale)
        torch.manual_seed(0)
        tokenizer = build_tokenizer()
        self._model = build_model(len(tokenizer))
        use_training_attention(self._model)
        self._objective = Objective(self._model, tokenizer).to(device)

    def run(self) -> None:
        """Train, from the saved state where there is one, and write the checkpoints."""
        state = self._folder / "state.safetensors"
        first, step = load_state(state, self._objective, None) if state.exists() else (0, 0)
        for number, stage in enumerate(self._stages[first:], first):
            optimizers = Optimizers(self._objective, vision_only=number == 0)
            if step:
                load_state(state, self._objective, optimizers)
            self._train(number, stage, optimizers, step)
            step = 0
            if self._rank == 0:
                # The checkpoint first: a kill between the two repeats it, and never leaves it out.
                if number > 0:
                    save_checkpoint(self._model, self._folder / stage.name)
                save_state(state, self._objective, None, number + 1, 0)

    def _train(self, number: int, stage: Stage, optimizers: Optimizers, first: int) -> None:
        bar = tqdm(total=stage.steps, initial=first, desc=stage.name, disable=self._rank > 0, mininterval=5)
        saved = time.monotonic()
        for step, batch in enumerate(self._batches(number, stage, first), first):
            losses = self._step(batch, optimizers, stage, step, vision=number == 0)
            bar.update()
            if step % 50 == 0 and self._rank == 0:
                shown = {name: f"{value.item():.3f}" for name, value in losses._asdict().items()}
                bar.set_postfix(shown, refresh=False)
                with (self._folder / "log.txt").open("a") as log:
                    log.write(f"{stage.name} {step} {shown}\n")
            if self._rank == 0 and time.monotonic() - saved > SAVE_EVERY:
                save_state(self._folder / "state.safetensors", self._objective, optimizers, number, step + 1)
                saved = time.monotonic()
        bar.close()

    def _batches(self, number: int, stage: Stage, first: int) -> Iterator[Batch]:
        seed = FIRST_TRAINING_SEED * (number + 1)
        steps = Steps(stage, seed, self._rank, self._ranks)
        workers = (os.cpu_count() or 1) if self._device == "cuda" else 0
        loader = DataLoader(steps, batch_size=None, sampler=range(first, stage.steps), num_workers=workers)
        for batch in loader:
            yield Batch(*(t.to(self._device) for t in batch))

    def _step(self, batch: Batch, optimizers: Optimizers, stage: Stage, step: int, *, vision: bool) -> Losses:
        with torch.autocast(self._device, dtype=torch.bfloat16):
            losses: Losses = self._objective.see_only(batch) if vision else self._objective(batch)
        losses.total.backward()
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self._objective.parameters(), 1.0)
        optimizers.step(stage.learning_rate(step))
        return losses

    def _average_gradients(self) -> None:
        if self._ranks == 1:
            return
        gradients = [p.grad for p in self._objective.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        parts: tuple[Tensor, ...] = (flat / self._ranks).split([g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _run_rank(rank: int, ranks: int, folder: Path, device: str, scale: float) -> None:
    if device == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    if ranks > 1:
        dist.init_process_group("gloo", f"file://{folder.resolve()}/rendezvous", rank=rank, world_size=ranks)
    try:
        Trainer(folder, device, rank, ranks, scale).run()
    finally:
        if ranks > 1:
            dist.destroy_process_group()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m lookonce_scenes.train", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/scenes"), help="where everything is written [%(default)s]"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every stage's steps [%(default)s]")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "rendezvous").unlink(missing_ok=True)
    ranks = 2 if arguments.device == "cpu" and (os.cpu_count() or 1) > 1 else 1
    common = (ranks, arguments.out, arguments.device, arguments.scale)
    if ranks == 1:
        _run_rank(0, *common)
    else:
        spawn(_run_rank, args=common, nprocs=ranks)


if __name__ == "__main__":
    main()
