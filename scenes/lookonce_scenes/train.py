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

from lookonce_scenes.forms import SYSTEM_PROMPTS, Exercise, Packer
from lookonce_scenes.model import build_model, save_checkpoint
from lookonce_scenes.objective import Batch, Losses, Objective, stack
from lookonce_scenes.optimizer import Optimizers, load_state, save_state
from lookonce_scenes.packing import CATEGORIES
from lookonce_scenes.tokenizer import build_tokenizer
from lookonce_scenes.training_attention import use_training_attention

FIRST_TRAINING_SEED = 1_000_000_000
"""Scenes of lower seeds are held out: no training ever draws them."""
LOG_EVERY = 100
"""Steps between two lines of the log."""
SAVE_EVERY = 120.0
"""Seconds between two saved states."""


Form = tuple[str, int]  # of `forms.Exercise`, and the pictures a sample
SINGLE: tuple[Form, ...] = (("single", 1),)
MIXED: tuple[Form, ...] = (
    ("single", 1), ("joined", 2), ("single", 1), ("video", 4), ("single", 1), ("joint", 2), ("single", 1),
    ("joined", 4), ("single", 1), ("joined", 2), ("single", 1), ("video", 4), ("single", 1), ("joint", 2),
    ("single", 1), ("joined", 2), ("joined", 3), ("single", 1), ("joint", 4), ("video", 6),
)  # fmt: skip
"""What the last stage's steps show in turn."""


@dataclass(frozen=True)
class Stage:
    """A part of the training, with a cosine schedule of its own.

    Attributes:
        name: in the log, and of its checkpoint.
        steps: how many.
        batch: pictures a step.
        rate: highest learning rate.
        drop_rate: share of the questions under context-drop.
        growth: shares of the stage after which three, and four, objects are drawn; it starts with two.
        album_growth: the same where there are several pictures.
        forms: what its steps show in turn.
        is_vision: the tower, the projector and the words' embeddings learn, alone.

    """

    name: str
    steps: int
    batch: int
    rate: float
    drop_rate: float = 0.0
    growth: tuple[float, float] = (0.0, 0.0)
    album_growth: tuple[float, float] = (0.0, 0.0)
    forms: tuple[Form, ...] = SINGLE
    is_vision: bool = False

    def exercise(self, step: int) -> Exercise:
        """Return the exercise of a step."""
        form, images = self.forms[step % len(self.forms)]
        growth = self.growth if images == 1 else self.album_growth
        most = 2 + sum(step / self.steps >= share for share in growth)
        turn = step // len(self.forms) % 12
        system = SYSTEM_PROMPTS[turn] if turn < len(SYSTEM_PROMPTS) else None
        return Exercise(form, images, most, self.drop_rate, system=system)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up over 150 steps, then cosine to 2%."""
        return self.rate * min(1.0, (step + 1) / 150) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / self.steps)))


def stages(scale: float = 1.0) -> tuple[Stage, ...]:
    """Return the stages; `scale` multiplies their steps."""
    return (
        Stage("vision", round(3500 * scale), 32, 1.5e-3, is_vision=True),
        Stage("vision again", round(2500 * scale), 32, 1e-3, is_vision=True),
        Stage("plain", round(3000 * scale), 16, 1e-3, growth=(0.2, 0.35)),
        Stage("context-drop", round(6000 * scale), 16, 8e-4, 0.6, album_growth=(0.15, 0.3), forms=MIXED),
    )


class Steps(Dataset[Batch]):
    """Make the batch of each step from its number.

    Any run, resumed or not, sees the same batches.
    """

    def __init__(self, stage: Stage, seed: int, rank: int, ranks: int) -> None:
        self._stage, self._seed, self._rank, self._ranks = stage, seed, rank, ranks
        self._packer = Packer(build_tokenizer())

    def __getitem__(self, step: int) -> Batch:
        """Batch of one rank at one step."""
        exercise = self._stage.exercise(step)
        # An even number of samples, so that two ranks share them as one would see them.
        size = max(2, self._stage.batch // exercise.images // 2 * 2) // self._ranks
        first = self._seed + step * self._stage.batch
        samples = range(self._rank * size, (self._rank + 1) * size)
        return stack([self._packer.pack(first + i * exercise.images, exercise) for i in samples], exercise)


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
            optimizers = Optimizers(self._objective, vision_only=stage.is_vision)
            if step:
                load_state(state, self._objective, optimizers)
            self._train(number, stage, optimizers, step)
            step = 0
            if self._rank == 0:
                # The checkpoint first: a kill between the two repeats it, and never leaves it out.
                if not stage.is_vision:
                    save_checkpoint(self._model, self._folder / stage.name)
                save_state(state, self._objective, None, number + 1, 0)

    def _train(self, number: int, stage: Stage, optimizers: Optimizers, first: int) -> None:
        bar = tqdm(total=stage.steps, initial=first, desc=stage.name, disable=self._rank > 0, mininterval=5)
        saved, report = time.monotonic(), _Report(self._folder / "log.txt")
        for step, batch in enumerate(self._batches(number, stage, first), first):
            losses = self._step(batch, optimizers, stage, step, vision=stage.is_vision)
            bar.update()
            if self._rank == 0:
                report.add(stage.exercise(step).form, losses)
                if step % LOG_EVERY == 0:
                    report.write(f"{stage.name} {step}")
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


class _Report:
    """Sums up losses, and right answers of each form and category, for the log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clear()

    def _clear(self) -> None:
        self._losses: dict[str, list[float]] = {}
        self._counts: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, form: str, losses: Losses) -> None:
        for name, value in losses._asdict().items():
            if value.dim() == 0:
                self._losses.setdefault(name, []).append(value.item())
        right, asked = self._counts.get(form, (torch.zeros(len(CATEGORIES)),) * 2)
        self._counts[form] = right + losses.right.cpu(), asked + losses.asked.cpu()

    def write(self, title: str) -> None:
        """Append what was added since the last time."""
        lines = [f"{title} " + " ".join(f"{name} {sum(v) / len(v):.3f}" for name, v in self._losses.items())]
        for form, (right, asked) in self._counts.items():
            shares = zip(CATEGORIES, right.tolist(), asked.tolist(), strict=True)
            told = " ".join(f"{name} {r / n:.2f}" for name, r, n in shares if n and name != "none")
            if told:
                lines.append(f"  {form}: all {right[1:].sum() / asked[1:].sum():.3f} {told}")
        with self._path.open("a") as log:
            log.write("\n".join(lines) + "\n")
        self._clear()


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
