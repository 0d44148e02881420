"""The figures in docs/: `python -m lookonce_evaluation.figures --rows docs/results/retention.json`."""

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lookonce_evaluation.dataset import held_out
from lookonce_evaluation.subject import Subject
from lookonce_pruning import get_selection, kept_count, parse_window
from lookonce_scenes import CHECKPOINT
from lookonce_scenes.tokenizer import PATCH_SIZE
from lookonce_server.settings import Settings


def kept_tokens(path: Path, seed: int) -> None:
    """A scene, the attention each of its tokens drew in the describe pass, and what is kept of it."""
    settings = Settings()
    subject = Subject.load(str(CHECKPOINT), settings)
    (case,) = held_out(1, seed)
    described = subject.describe(case, parse_window(settings.window, subject.runner.num_layers))
    scores = described.scores(settings.rows)
    keep = kept_count(settings.retention, scores.tokens)
    kept = get_selection(settings.selection).select(scores, keep)[0].tolist()
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.5), layout="constrained")
    for axis, title in zip(
        axes, ("the picture", "attention while describing", f"kept: {keep} of {scores.tokens}"), strict=True
    ):
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    axes[0].imshow(case.image)
    axes[1].imshow(torch.sqrt(scores.values.mean(0)).view(scores.grid), cmap="magma")
    axes[2].imshow(case.image, alpha=0.25)
    for index in kept:
        row, column = divmod(index, scores.grid[1])
        _show_patch(axes[2], case.image, row * PATCH_SIZE, column * PATCH_SIZE)
    figure.supxlabel(textwrap.fill(described.text, 100), fontsize=9)
    figure.savefig(path, dpi=130)


def _show_patch(axis: Axes, pixels: Any, y: int, x: int) -> None:
    axis.imshow(pixels[y : y + PATCH_SIZE, x : x + PATCH_SIZE], extent=(x, x + PATCH_SIZE, y + PATCH_SIZE, y))
    axis.add_patch(Rectangle((x, y), PATCH_SIZE, PATCH_SIZE, fill=False, edgecolor="black", linewidth=0.8))
    axis.set_xlim(0, pixels.shape[1])
    axis.set_ylim(pixels.shape[0], 0)


def accuracy_by_retention(path: Path, rows: list[dict[str, Any]]) -> None:
    """ACC of each selection over the share of the image tokens kept."""
    full = next(row for row in rows if row["retention"] is None)["mean"]["acc"]
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name in dict.fromkeys(row["name"] for row in rows if row["retention"] and row["retention"] < 1):
        points = sorted((row["retention"], row["mean"]["acc"]) for row in rows if row["name"] == name)
        axis.plot(*zip(*points, strict=True), marker="o", label=name, linestyle="--" if name == "oracle" else "-")
    axis.axhline(full, color="gray", linewidth=1, label="full pass")
    axis.set(xscale="log", xlabel="share of the image tokens kept", ylabel="ACC, %")
    axis.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5], ["2%", "5%", "10%", "20%", "50%"], minor=False)
    axis.minorticks_off()
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m lookonce_evaluation.figures", description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="what lookonce_evaluation.subject --json wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=17, help="scene of the first figure [%(default)s]")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept_tokens(arguments.out / "kept-tokens.png", arguments.seed)
    accuracy_by_retention(arguments.out / "retention.png", json.loads(arguments.rows.read_text()))


if __name__ == "__main__":
    main()
