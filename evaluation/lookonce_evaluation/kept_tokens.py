"""The README's figure: `python -m lookonce_evaluation.kept_tokens`."""

import argparse
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.describe import describe, kept_tokens
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.options import settings_for
from lookonce_evaluation.plots import save
from lookonce_server.settings import BUNDLED


def draw(path: Path, seed: int) -> None:
    """Draw a scene, the attention each of its tokens drew in the describe pass, and what is kept of it."""
    from matplotlib.figure import Figure

    settings = settings_for(BUNDLED)
    model = EvalModel.load(BUNDLED, settings)
    (case,) = held_out(1, seed)
    described = describe(model, case, model.window(settings.window))
    scores = described.scores(settings.rows)
    kept = kept_tokens(described, settings.retention, settings)[0].tolist()
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots(1, 3)
    titles = ("the picture", "attention while describing", f"kept: {len(kept)} of {scores.tokens}")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    pixels = np.asarray(case.image)
    axes[0].imshow(pixels)
    axes[1].imshow(torch.sqrt(scores.values.mean(0)).view(scores.grid), cmap="magma")
    axes[2].imshow(pixels, alpha=0.25)
    height, width = pixels.shape[0] // scores.grid[0], pixels.shape[1] // scores.grid[1]
    for row, column in (divmod(index, scores.grid[1]) for index in kept):
        _show_patch(
            axes[2], pixels, range(row * height, (row + 1) * height), range(column * width, (column + 1) * width)
        )
    figure.supxlabel(textwrap.fill(described.text, 100), fontsize=9)
    save(figure, path)


def _show_patch(axis: Any, pixels: np.ndarray[Any, Any], rows: range, columns: range) -> None:
    from matplotlib.patches import Rectangle

    extent = (columns.start, columns.stop, rows.stop, rows.start)
    axis.imshow(pixels[rows.start : rows.stop, columns.start : columns.stop], extent=extent)
    corner = (columns.start, rows.start)
    axis.add_patch(Rectangle(corner, len(columns), len(rows), fill=False, edgecolor="black", linewidth=0.8))
    axis.set_xlim(0, pixels.shape[1])
    axis.set_ylim(pixels.shape[0], 0)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m lookonce_evaluation.kept_tokens", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/kept-tokens.png"), help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=17, help="the scene [%(default)s]")
    arguments = parser.parse_args()
    draw(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
