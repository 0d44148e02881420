"""The results as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lookonce_evaluation.flow.means import Mean
from lookonce_evaluation.flow.results import Results
from lookonce_evaluation.flow.trials import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SETS = {
    "from": "from layer l on",
    "up to": "up to layer l",
    "all but": "everywhere but in a quarter, from l on",
    "window": "in a window centred at l",
}
_ENDS = {"last": "to the last position", "question": "to the question's tokens"}
_STAGES = {"general": "tab:green", "specific": "tab:orange", "aggregation": "tab:blue", "direct": "tab:orange"}


def f1_by_layers(found: Results, path: Path) -> None:
    """F1 over layers, a panel a kind of layer set, a line a kind of knockout."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    for axis, (how, title) in zip(panels.flat, _SETS.items(), strict=True):
        for kind in KINDS:
            points = {t.where.at: m for t, m in found.f1.items() if t and t.flow == kind and t.where.how == how}
            _curve(axis, list(points), list(points.values()), kind)
        axis.set(title=f"knocked out {title}", xlabel="layer l", ylim=(-3, 103))
    for axis in panels[:, 0]:
        axis.set_ylabel("F1, %")
    panels[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def flows_by_window(found: Results, path: Path) -> None:
    """The flows over window positions: those to the last position, and those to the question; stages are shaded."""
    from matplotlib.figure import Figure

    curves, at = found.flows["all"], [where.at for where in found.positions]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axis, (end, title) in zip(panels, _ENDS.items(), strict=True):
        for flow, curve in curves.changes.items():
            if flow.endswith(end):
                _curve(axis, at, curve, flow)
        axis.set(title=title, xlabel="window's centre, layer")
        for name, stage in curves.stages._asdict().items():
            if stage and (name in ("aggregation", "direct")) == (end == "last"):
                first, last = at[stage.first] - 0.4, at[stage.last] + 0.4
                axis.axvspan(first, last, color=_STAGES[name], alpha=0.1, label=name, linewidth=0)
        if axis.has_data():
            axis.legend(fontsize=8)
    panels[0].set_ylabel("change of the probability, %")
    figure.savefig(path, dpi=130)


def _curve(axis: Axes, at: list[int], curve: list[Mean], label: str) -> None:
    axis.plot(at, [m.mean for m in curve], marker="o", markersize=3, label=label)
    axis.fill_between(at, [m.low for m in curve], [m.high for m in curve], alpha=0.2, linewidth=0)
    axis.grid(visible=True, alpha=0.3)
