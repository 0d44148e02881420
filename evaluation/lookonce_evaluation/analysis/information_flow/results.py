"""The means over the images' records, their stages, tables and plots.

Zhang et al., arXiv 2411.18620, section 5, read three stages from their plots: low layers bring the image in general
into the question's tokens, middle ones what the question is about, and high ones bring all of it to the last position.
Here each has a rule. So has a fourth, of which they find little: the last position reads the image itself.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lookonce_evaluation.analysis.information_flow.trials import FLOWS, KINDS, Answer, LayerSet, Plan, Record, Trial
from lookonce_evaluation.metrics.bootstrap import Estimate, means
from lookonce_evaluation.metrics.captions import Score
from lookonce_evaluation.plots import curve, panels, save
from lookonce_evaluation.tables import table

TAU = 10.0
"""Percent of the answer's probability that a stage costs at least in each of its layers."""
ByTrial = dict[Trial | None, Estimate]
"""None: nothing knocked out."""

_STAGES = ("general injection", "specific injection", "answer aggregation", "direct reading")
_SETS = {
    "from": "from layer l on",
    "up to": "up to layer l",
    "all but": "everywhere but in a quarter, from l on",
    "window": "in a window centred at l",
}
_ENDS = {"last": "to the last position", "question": "to the question's tokens"}
_COLOURS = {"general": "tab:green", "specific": "tab:orange", "aggregation": "tab:blue", "direct": "tab:orange"}


class Stage(NamedTuple):
    """Window positions one after another, as indices, both ends among them."""

    first: int
    last: int


class Stages(NamedTuple):
    """The stages; None where there is none."""

    general: Stage | None  # knocking out the image's other patches costs tau
    specific: Stage | None  # knocking out the asked object's patches costs tau, and more than the other patches
    aggregation: Stage | None  # knocking out what the last position reads of the question costs tau
    direct: Stage | None  # knocking out what it reads of the image itself costs tau


class Curves(NamedTuple):
    """The sliding window's flows, and the stages that they show."""

    questions: int  # answered right with nothing knocked out: those that count
    changes: dict[str, list[Estimate]]  # by flow and window position: of the first token's probability, in percent
    stages: Stages


class Results(NamedTuple):
    """The means; a trial that could not be made is missing."""

    images: int  # described
    f1: ByTrial  # against the ordinary description, 0 to 100
    truth: ByTrial  # against the scene's objects
    asked_images: int
    asked: int  # questions
    accuracy: ByTrial  # exact answers, in percent
    flows: dict[str, Curves]  # by category of the questions; "all" first
    positions: list[LayerSet]  # of the sliding window

    def as_json(self) -> Any:
        """Write them for result.json: estimates as [mean, low, high]."""
        return {
            "described": {"images": self.images, "f1": _listed(self.f1), "f1 against the truth": _listed(self.truth)},
            "answered": {"images": self.asked_images, "questions": self.asked, "accuracy": _listed(self.accuracy)},
            "windows": [where.layers for where in self.positions],
            "flows": {
                name: {"questions": c.questions, "change": c.changes, "stages": c.stages._asdict()}
                for name, c in self.flows.items()
            },
        }


def _listed(by_trial: ByTrial) -> list[dict[str, Any]]:
    keys = ("flow", "how", "layers", "percent")
    ids = [(None, "nothing", []) if t is None else (t.flow, str(t.where), t.where.layers) for t in by_trial]
    return [dict(zip(keys, (*each, mean), strict=True)) for each, mean in zip(ids, by_trial.values(), strict=True)]


def results_of(plan: Plan, described: Sequence[Record], asked: Sequence[Record], tau: float) -> Results:
    """Average the records, with a bootstrap over images."""
    judged = [None, *plan.kinds]
    by_image = [[[Answer(*a) if a else None for a in q["answers"]] for q in record] for record in asked]
    right = means([[[100.0 * a.right for a in q[: len(judged)] if a] for q in image] for image in by_image])
    flows = {"all": _curves(plan, by_image, tau)}
    for name in sorted({q["category"] for record in asked for q in record} - {""}):
        of_category = [
            [answers for answers, q in zip(image, record, strict=True) if q["category"] == name]
            for image, record in zip(by_image, asked, strict=True)
        ]
        flows[name] = _curves(plan, of_category, tau)
    return Results(
        len(described),
        dict(zip(judged, _f1(described, "counts"), strict=False)),
        dict(zip(judged, _f1(described, "against_scene"), strict=False)),
        len(asked),
        sum(map(len, asked)),
        dict(zip(judged, right, strict=False)),
        flows,
        list(dict.fromkeys(trial.where for trial in plan.flows)),
    )


def _f1(records: Sequence[Record], against: str) -> list[Estimate]:
    """Nothing where there is no such judgement."""
    counts = [[record["verdicts"][text][against] for text in record["texts"]] for record in records]
    return means([[[100 * Score(*each).f1 for each in image]] for image in counts if None not in image])


def _curves(plan: Plan, by_image: Sequence[Sequence[Sequence[Answer | None]]], tau: float) -> Curves:
    right = [[answers for answers in image if answers[0] and answers[0].right] for image in by_image]
    changes: dict[str, list[Estimate]] = {}
    for flow in FLOWS:
        at = [i for i, trial in enumerate(plan.asking, 1) if trial.flow == flow]
        curve = means([[change for answers in image if (change := _change(answers, at))] for image in right])
        if curve:
            changes[flow] = curve
    stages = find_stages({flow: [mean.value for mean in curve] for flow, curve in changes.items()}, tau)
    return Curves(sum(map(len, right)), changes, stages)


def _change(answers: Sequence[Answer | None], at: Sequence[int]) -> list[float]:
    """By window position, percent; empty where a trial was not made."""
    base, trials = answers[0], [answer for i in at if (answer := answers[i])]
    assert base is not None
    return [100 * (answer.probability / base.probability - 1) for answer in trials] if len(trials) == len(at) else []


def find_stages(changes: Mapping[str, Sequence[float]], tau: float = TAU) -> Stages:
    """Find the stages of one model: of the runs of positions that fit, the costliest.

    Args:
        changes: of the first answer token's probability in percent, by flow and window position; a flow may be missing.
        tau: percent, above 0.
    """
    costs = {flow: [-change for change in curve] for flow, curve in changes.items()}
    asked, others = costs.get("asked→question", []), costs.get("others→question", [])
    specific = [cost if cost > other else 0.0 for cost, other in zip(asked, others, strict=True)]
    ends = (costs.get(flow, []) for flow in ("question→last", "image→last"))
    return Stages(*(_costliest(curve, tau) for curve in (others, specific, *ends)))


def _costliest(costs: Sequence[float], tau: float) -> Stage | None:
    """Find the first run of costs of at least tau with the largest sum."""
    runs: list[list[int]] = [[]]
    for at, cost in enumerate(costs):
        if cost >= tau:
            runs[-1].append(at)
        elif runs[-1]:
            runs.append([])
    best = max(runs, key=lambda run: sum(costs[at] for at in run))
    return Stage(best[0], best[-1]) if best else None


def markdown(results: Results, width: int, tau: float) -> str:
    """Write all tables, each with a line that says what it shows."""
    tables = []
    if results.f1:
        truth = results.truth.get(None)
        scenes = f" The ordinary ones have F1 {truth.shown(1)} against what is in the scenes." if truth else ""
        tables += [
            f"**Descriptions**: F1, in percent, of {results.images} images' objects against the ordinary description,"
            f" by what is knocked out.{scenes}",
            _by_layers(results.f1),
        ]
    if results.accuracy:
        count = f"{results.asked} questions about {results.asked_images} images"
        tables += [f"**Answers**: exact ones, in percent, of {count}.", _by_layers(results.accuracy)]
        tables += [_flows(results, width), _stages(results, tau)]
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
    """Write a line a set of layers, a column a kind."""
    rows: list[list[object]] = [["nothing", "", *[cells[None].shown(1)] * len(KINDS)]]
    by_set: dict[LayerSet, dict[str, Estimate]] = {}
    for trial, mean in cells.items():
        if trial is not None:
            by_set.setdefault(trial.where, {})[trial.flow] = mean
    for where, row in by_set.items():
        rows.append([where, layers_text(where.layers), *(row[kind].shown(1) for kind in KINDS)])
    return table(("knocked out in", "layers", *KINDS), rows)


def _flows(results: Results, width: int) -> str:
    curves = results.flows["all"]
    title = (
        f"**Flows**: change of the first answer token's probability, in percent, with a window of {width} layers"
        f" knocked out; {curves.questions} questions that are answered right otherwise."
    )
    flows = [flow for flow in FLOWS if flow in curves.changes]
    if not flows:
        return title
    rows = [
        [where.at, layers_text(where.layers), *(curves.changes[flow][i].shown() for flow in flows)]
        for i, where in enumerate(results.positions)
    ]
    return f"{title}\n\n{table(('centre', 'layers', *flows), rows)}"


def _stages(results: Results, tau: float) -> str:
    def centres(stage: Stage | None) -> str:
        if stage is None:
            return "none"
        return layers_text(tuple(where.at for where in results.positions[stage.first : stage.last + 1]))

    rows = [[name, curves.questions, *map(centres, curves.stages)] for name, curves in results.flows.items()]
    text = table(("questions", "answered right", *_STAGES), rows)
    return f"**Stages**: window centres where a stage's flow costs at least {tau:g}%.\n\n{text}"


def plot_f1(results: Results, path: Path) -> None:
    """Plot F1 over layers, a panel a kind of layer set, a line a kind of knockout."""
    figure, axes = panels(2, 2, (9, 6))
    for axis, (how, title) in zip(axes, _SETS.items(), strict=True):
        for kind in KINDS:
            points = {t.where.at: mean for t, mean in results.f1.items() if t and t.flow == kind and t.where.how == how}
            curve(axis, list(points), list(points.values()), kind)
        axis.set(title=f"knocked out {title}", xlabel="layer l", ylim=(-3, 103))
    for axis in axes[::2]:
        axis.set_ylabel("F1, %")
    axes[0].legend(fontsize=8)
    save(figure, path)


def plot_flows(results: Results, path: Path) -> None:
    """Plot the flows over window positions, with the stages shaded."""
    curves, at = results.flows["all"], [where.at for where in results.positions]
    figure, axes = panels(1, 2, (9, 3.8))
    for axis, (end, title) in zip(axes, _ENDS.items(), strict=True):
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
    axes[0].set_ylabel("change of the probability, %")
    save(figure, path)
