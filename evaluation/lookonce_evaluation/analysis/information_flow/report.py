"""The results as Markdown tables and plots."""

from pathlib import Path

from lookonce_evaluation.analysis.information_flow.results import ByTrial, Results, Stage
from lookonce_evaluation.analysis.information_flow.trials import FLOWS, KINDS, LayerSet
from lookonce_evaluation.metrics.bootstrap import Estimate
from lookonce_evaluation.plots import curve, save
from lookonce_evaluation.tables import header, line

_STAGES = ("general injection", "specific injection", "answer aggregation", "direct reading")
_SETS = {
    "from": "from layer l on",
    "up to": "up to layer l",
    "all but": "everywhere but in a quarter, from l on",
    "window": "in a window centred at l",
}
_ENDS = {"last": "to the last position", "question": "to the question's tokens"}
_COLOURS = {"general": "tab:green", "specific": "tab:orange", "aggregation": "tab:blue", "direct": "tab:orange"}


def markdown(found: Results, width: int, tau: float) -> str:
    """Write all tables, each with a line that says what it shows."""
    tables = []
    if found.f1:
        truth = found.truth.get(None)
        scenes = f" The ordinary ones have F1 {truth.shown(1)} against what is in the scenes." if truth else ""
        tables.append(
            f"**Descriptions**: F1, in percent, of {found.images} images' objects against the ordinary description,"
            f" by what is knocked out.{scenes}\n\n" + _by_layers(found.f1)
        )
    if found.accuracy:
        tables.append(
            f"**Answers**: exact ones, in percent, of {found.asked} questions about {found.asked_images} images.\n\n"
            + _by_layers(found.accuracy)
        )
        tables += [_flows(found, width), _stages(found, tau)]
    return "\n\n".join(tables)


def layers_text(layers: tuple[int, ...]) -> str:
    """Write layers as in 0-3, 6-7."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _by_layers(cells: ByTrial) -> str:
    """A line a set of layers, a column a kind."""
    lines = [header("knocked out in", "layers", *KINDS), line(["nothing", "", *[cells[None].shown(1)] * len(KINDS)])]
    by_set: dict[LayerSet, dict[str, Estimate]] = {}
    for trial, mean in cells.items():
        if trial is not None:
            by_set.setdefault(trial.where, {})[trial.flow] = mean
    for where, row in by_set.items():
        lines.append(line([where, layers_text(where.layers), *(row[kind].shown(1) for kind in KINDS)]))
    return "\n".join(lines)


def _flows(found: Results, width: int) -> str:
    curves = found.flows["all"]
    title = (
        f"**Flows**: change of the first answer token's probability, in percent, with a window of {width} layers"
        f" knocked out; {curves.questions} questions that are answered right otherwise."
    )
    flows = [flow for flow in FLOWS if flow in curves.changes]
    if not flows:
        return title
    lines = [header("centre", "layers", *flows)]
    for i, where in enumerate(found.positions):
        lines.append(line([where.at, layers_text(where.layers), *(curves.changes[flow][i].shown() for flow in flows)]))
    return f"{title}\n\n" + "\n".join(lines)


def _stages(found: Results, tau: float) -> str:
    def centres(stage: Stage | None) -> str:
        if stage is None:
            return "none"
        return layers_text(tuple(where.at for where in found.positions[stage.first : stage.last + 1]))

    lines = [header("questions", "answered right", *_STAGES)]
    lines += [line([name, curves.questions, *map(centres, curves.stages)]) for name, curves in found.flows.items()]
    return f"**Stages**: window centres where a stage's flow costs at least {tau:g}%.\n\n" + "\n".join(lines)


def plot_f1(found: Results, path: Path) -> None:
    """Plot F1 over layers, a panel a kind of layer set, a line a kind of knockout."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    for axis, (how, title) in zip(panels.flat, _SETS.items(), strict=True):
        for kind in KINDS:
            points = {t.where.at: mean for t, mean in found.f1.items() if t and t.flow == kind and t.where.how == how}
            curve(axis, list(points), list(points.values()), kind)
        axis.set(title=f"knocked out {title}", xlabel="layer l", ylim=(-3, 103))
    for axis in panels[:, 0]:
        axis.set_ylabel("F1, %")
    panels[0, 0].legend(fontsize=8)
    save(figure, path)


def plot_flows(found: Results, path: Path) -> None:
    """Plot the flows over window positions, those to the last one and those to the question; stages are shaded."""
    from matplotlib.figure import Figure

    curves, at = found.flows["all"], [where.at for where in found.positions]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axis, (end, title) in zip(panels, _ENDS.items(), strict=True):
        for flow, changes in curves.changes.items():
            if flow.endswith(end):
                curve(axis, at, changes, flow)
        axis.set(title=title, xlabel="window's centre, layer")
        for name, stage in curves.stages._asdict().items():
            if stage and (name in ("aggregation", "direct")) == (end == "last"):
                first, last = at[stage.first] - 0.4, at[stage.last] + 0.4
                axis.axvspan(first, last, color=_COLOURS[name], alpha=0.1, label=name, linewidth=0)
        if axis.has_data():
            axis.legend(fontsize=8)
    panels[0].set_ylabel("change of the probability, %")
    save(figure, path)
