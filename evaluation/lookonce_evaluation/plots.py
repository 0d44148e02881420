"""Plots: accuracy by retention, and the parts that all figures share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lookonce_evaluation.metrics.bootstrap import Estimate
from lookonce_evaluation.metrics.mme import KINDS, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(rows: int, columns: int, size: tuple[float, float], *, sharey: bool = True) -> tuple[Figure, list[Axes]]:
    """Make a figure, and its panels row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(rows, columns, sharey=sharey, squeeze=False).flat)


def save(figure: Figure, path: Path) -> None:
    """Write a figure, and print its path."""
    figure.savefig(path, dpi=130)
    print(f"wrote {path}")


def curve(axis: Axes, at: Sequence[float], values: Sequence[Estimate], label: str, style: str = "-") -> None:
    """Draw values with the bands of their intervals."""
    (drawn,) = axis.plot(at, [value.value for value in values], style, marker="o", markersize=3, label=label)
    low, high = [value.low for value in values], [value.high for value in values]
    axis.fill_between(at, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)
    axis.grid(visible=True, alpha=0.3)


def by_retention(path: Path, rows: Sequence[Row]) -> None:
    """Plot ACC and ACC+ of each selection over retention.

    Bands are 95% intervals of the differences to the full pass, the first row, laid about its accuracy.
    """
    full = rows[0].outcomes
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row.retention and row.retention < 1 and ", " not in row.name:
            lines.setdefault(row.name, []).append(row)
    figure, axes = panels(1, 2, (11, 4.2), sharey=False)
    for axis, kind in zip(axes, ("acc", "acc+"), strict=True):
        base = full.percent(kind)
        axis.axhline(base, color="gray", linewidth=1, label="full pass")
        for name, points in lines.items():
            if len(points) > 1:
                values = [Estimate(*(base + part for part in row.outcomes.change(full, kind))) for row in points]
                style = {"oracle": "--", "random": ":", "uniform": ":"}.get(name, "-")
                curve(axis, [row.retention or 0 for row in points], values, name, style)
        axis.set(xscale="log", xlabel="share of the image tokens kept", ylabel=f"{KINDS[kind]}, %")
        ticks = sorted({row.retention for points in lines.values() for row in points if row.retention})
        axis.set_xticks(ticks, [f"{100 * share:g}%" for share in ticks])
        axis.minorticks_off()
    axes[1].legend(fontsize=8)
    save(figure, path)
