"""Means over the records of images, and the stages that they show.

Zhang et al., arXiv 2411.18620, section 5, read three stages from their plots: low layers bring the image in general
into the question's tokens, middle ones what the question is about, and high ones bring all of it to the last position.
Here each has a rule. So has a fourth, of which they find little: the last position reads the image itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lookonce_evaluation.analysis.information_flow.measure import Answer, Plan, Record
from lookonce_evaluation.analysis.information_flow.trials import FLOWS, LayerSet, Trial
from lookonce_evaluation.metrics.bootstrap import Estimate, means
from lookonce_evaluation.metrics.captions import Score

TAU = 10.0
"""Percent of the answer's probability that a stage costs at least in each of its layers."""
ByTrial = dict[Trial | None, Estimate]
"""None: nothing knocked out."""


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
    """All of it; a trial that could not be made is missing."""

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
    nothing: dict[str, Any] = {"flow": None, "how": "nothing", "layers": []}
    return [
        (nothing if trial is None else {"flow": trial.flow, "how": str(trial.where), "layers": trial.where.layers})
        | {"percent": mean}
        for trial, mean in by_trial.items()
    ]


def results(plan: Plan, described: Sequence[Record], asked: Sequence[Record], tau: float) -> Results:
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
    base, found = answers[0], [answer for i in at if (answer := answers[i])]
    assert base is not None
    return [100 * (answer.probability / base.probability - 1) for answer in found] if len(found) == len(at) else []


def find_stages(changes: Mapping[str, Sequence[float]], tau: float = TAU) -> Stages:
    """Find the stages of one model. Where several runs of positions fit, the one that costs most in all is the stage.

    Args:
        changes: for each of `FLOWS`, but for last→last, which no stage is told by, and image→question, which is looked
            at in parts, the change of the first answer token's probability in percent, by window position; a flow may
            be missing.
        tau: percent, above 0.
    """
    costs = {flow: [-change for change in curve] for flow, curve in changes.items()}
    asked, others = costs.get("asked→question", []), costs.get("others→question", [])
    specific = [cost if cost > other else 0.0 for cost, other in zip(asked, others, strict=True)]
    ends = (costs.get(flow, []) for flow in ("question→last", "image→last"))
    return Stages(*(_costliest(curve, tau) for curve in (others, specific, *ends)))


def _costliest(costs: Sequence[float], tau: float) -> Stage | None:
    """Of the runs in which every cost is at least tau, the one of the largest sum; of equals the first."""
    runs: list[list[int]] = [[]]
    for at, cost in enumerate(costs):
        if cost >= tau:
            runs[-1].append(at)
        elif runs[-1]:
            runs.append([])
    best = max(runs, key=lambda run: sum(costs[at] for at in run))
    return Stage(best[0], best[-1]) if best else None
