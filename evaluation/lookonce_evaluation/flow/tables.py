"""The results as Markdown tables."""

from collections.abc import Callable

from lookonce_evaluation.flow.layers import LayerSet
from lookonce_evaluation.flow.means import Mean
from lookonce_evaluation.flow.results import Results
from lookonce_evaluation.flow.stages import Stage
from lookonce_evaluation.flow.trials import FLOWS, KINDS, Trial
from lookonce_evaluation.tables import header, line

_STAGES = ("general injection", "specific injection", "answer aggregation", "direct reading")


def markdown(found: Results, width: int, tau: float) -> str:
    """All tables, each with a line that says what it shows."""
    tables = []
    if found.f1:
        tables.append(
            f"**Descriptions**: F1, in percent, of {found.images} images' objects against the ordinary description,"
            f" by what is knocked out.{_against_truth(found)}\n\n" + _by_layers(found.f1)
        )
    if found.accuracy:
        tables.append(
            f"**Answers**: exact ones, in percent, of {found.asked} questions about {found.asked_images} images.\n\n"
            + _by_layers(found.accuracy)
        )
        tables.append(_flows(found, width))
        tables.append(_stages(found, tau))
    return "\n\n".join(tables)


def layers_text(layers: tuple[int, ...]) -> str:
    """As in 0-3, 6-7."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _against_truth(found: Results) -> str:
    nothing = found.truth.get(None)
    return f" The ordinary ones have F1 {nothing.shown(1)} against what is in the scenes." if nothing else ""


def _by_layers(cells: dict[Trial | None, Mean]) -> str:
    """A line a set of layers, a column a kind."""
    lines = [header("knocked out in", "layers", *KINDS), line(["nothing", "", *[cells[None].shown(1)] * len(KINDS)])]
    by_set: dict[LayerSet, dict[str, Mean]] = {}
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
        cells = (curves.changes[flow][i].shown() for flow in flows)
        lines.append(line([where.at, layers_text(where.layers), *cells]))
    return f"{title}\n\n" + "\n".join(lines)


def _stages(found: Results, tau: float) -> str:
    lines = [header("questions", "answered right", *_STAGES)]
    shown = _shown(found)
    for name, curves in found.flows.items():
        lines.append(line([name, curves.questions, *map(shown, curves.stages)]))
    return f"**Stages**: window centres where a stage's flow costs at least {tau:g}%.\n\n" + "\n".join(lines)


def _shown(found: Results) -> Callable[[Stage | None], str]:
    def text(stage: Stage | None) -> str:
        if stage is None:
            return "none"
        return layers_text(tuple(where.at for where in found.positions[stage.first : stage.last + 1]))

    return text
