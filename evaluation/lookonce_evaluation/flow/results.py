"""Means over the records of images."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from lookonce_evaluation.flow.answering import Answer
from lookonce_evaluation.flow.layers import LayerSet
from lookonce_evaluation.flow.means import Mean, means
from lookonce_evaluation.flow.measuring import Plan, Record
from lookonce_evaluation.flow.stages import Stages, find_stages
from lookonce_evaluation.flow.trials import FLOWS, Trial
from lookonce_evaluation.judge import Score


class Curves(NamedTuple):
    """The sliding window's flows, and the stages that they show."""

    questions: int  # answered right with nothing knocked out: those that count
    changes: dict[str, list[Mean]]  # by flow and window position: of the first answer token's probability, in percent
    stages: Stages


class Results(NamedTuple):
    """All of it; a trial that could not be made is missing."""

    images: int  # described
    f1: dict[Trial | None, Mean]  # against the ordinary description, 0 to 100; None: nothing knocked out
    truth: dict[Trial | None, Mean]  # against the scene's objects
    asked_images: int
    asked: int  # questions
    accuracy: dict[Trial | None, Mean]  # exact answers, in percent
    flows: dict[str, Curves]  # by category of the questions; "all" first
    positions: list[LayerSet]  # of the sliding window

    def as_json(self) -> Any:
        """For result.json: intervals as [mean, low, high]."""
        return {
            "described": {"images": self.images, "f1": _listed(self.f1), "f1 against the truth": _listed(self.truth)},
            "answered": {"images": self.asked_images, "questions": self.asked, "accuracy": _listed(self.accuracy)},
            "windows": [where.layers for where in self.positions],
            "flows": {
                name: {"questions": c.questions, "change": c.changes, "stages": c.stages._asdict()}
                for name, c in self.flows.items()
            },
        }


def _listed(found: dict[Trial | None, Mean]) -> list[dict[str, Any]]:
    nothing: dict[str, Any] = {"flow": None, "how": "nothing", "layers": []}
    return [
        (nothing if trial is None else {"flow": trial.flow, "how": str(trial.where), "layers": trial.where.layers})
        | {"percent": mean}
        for trial, mean in found.items()
    ]


def results(plan: Plan, described: Sequence[Record], asked: Sequence[Record], tau: float) -> Results:
    """Means and intervals, by a bootstrap over images.

    Args:
        plan: what was knocked out.
        described: of `measuring.describe`, an image each.
        asked: of `measuring.ask`, an image each.
        tau: see `find_stages`.
    """
    judged = [None, *plan.kinds]
    by_image = [[[Answer(*one) if one else None for one in q["answers"]] for q in record] for record in asked]
    right = means([[[100.0 * one.right for one in q[: len(judged)] if one] for q in image] for image in by_image])
    categories = sorted({q["category"] for record in asked for q in record} - {""})
    flows = {"all": _curves(plan, by_image, tau)}
    for name in categories:
        chosen = [
            [answers for answers, q in zip(image, record, strict=True) if q["category"] == name]
            for image, record in zip(by_image, asked, strict=True)
        ]
        flows[name] = _curves(plan, chosen, tau)
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


def _f1(records: Sequence[Record], against: str) -> list[Mean]:
    """Nothing where there is no such judgement."""
    found = [[record["verdicts"][text][against] for text in record["texts"]] for record in records]
    return means([[[100 * Score(*counts).f1 for counts in image]] for image in found if None not in image])


def _curves(plan: Plan, by_image: Sequence[Sequence[Sequence[Answer | None]]], tau: float) -> Curves:
    right = [[answers for answers in image if answers[0] and answers[0].right] for image in by_image]
    changes: dict[str, list[Mean]] = {}
    for flow in FLOWS:
        at = [i for i, trial in enumerate(plan.asking, 1) if trial.flow == flow]
        found = means([[change for answers in image if (change := _change(answers, at))] for image in right])
        if found:
            changes[flow] = found
    stages = find_stages({flow: [mean.mean for mean in curve] for flow, curve in changes.items()}, tau)
    return Curves(sum(map(len, right)), changes, stages)


def _change(answers: Sequence[Answer | None], at: Sequence[int]) -> list[float]:
    """By window position, percent; empty where a trial was not made."""
    base, found = answers[0], [answers[i] for i in at]
    assert base is not None
    known = [one for one in found if one is not None]
    return [100 * (one.probability / base.probability - 1) for one in known] if len(known) == len(found) else []
