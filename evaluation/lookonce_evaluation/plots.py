"""Accuracy over retention, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lookonce_evaluation.accuracy import KINDS, Row


def by_retention(path: Path, rows: Sequence[Row]) -> None:
    """ACC and ACC+ of each selection over the share of the image tokens kept, with the full pass's.

    Bands are 95% intervals of the differences to the full pass, the first row, laid about its accuracy.
    """
    from matplotlib.figure import Figure

    names = dict.fromkeys(row.name for row in rows if row.retention and row.retention < 1)
    lines = {name: [row for row in rows if row.name == name] for name in names if ", " not in name}
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axis, kind in zip(figure.subplots(1, 2), ("acc", "acc+"), strict=True):
        axis.axhline(rows[0].outcomes.percent(kind), color="gray", linewidth=1, label="full pass")
        for name, found in lines.items():
            if len(found) > 1:
                _line(axis, name, found, rows[0], kind)
        axis.set(xscale="log", xlabel="share of the image tokens kept", ylabel=f"{KINDS[kind]}, %")
        ticks = sorted({row.retention for found in lines.values() for row in found if row.retention})
        axis.set_xticks(ticks, [f"{100 * share:g}%" for share in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.axes[1].legend(fontsize=8)
    figure.savefig(path, dpi=130)
    print(f"wrote {path}")


def _line(axis: Any, name: str, rows: Sequence[Row], full: Row, kind: str) -> None:
    base = full.outcomes.percent(kind)
    shares = [row.retention for row in rows]
    changes = [row.outcomes.change(full.outcomes, kind) for row in rows]
    style = {"oracle": "--", "random": ":", "uniform": ":"}.get(name, "-")
    (line,) = axis.plot(shares, [base + one.difference for one in changes], style, marker="o", markersize=3, label=name)
    low, high = [base + one.low for one in changes], [base + one.high for one in changes]
    axis.fill_between(shares, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
