"""The stages of Zhang et al., arXiv 2411.18620, section 5, told from what knocking flows out costs.

They read three from their plots: low layers bring the image in general into the question's tokens, middle ones what the
question is about, and high ones bring all of it to the last position. Here each has a rule. So has a fourth, of which
they find little: the last position reads the image itself.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

TAU = 10.0
"""Percent of the answer's probability that a stage costs at least in each of its layers."""


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


def find_stages(changes: Mapping[str, Sequence[float]], tau: float = TAU) -> Stages:
    """The stages of one model. Where several runs of positions fit, the one that costs most in all is the stage.

    Args:
        changes: for each of `trials.FLOWS`, but for last→last, which no stage is told by, and image→question, which is
            looked at in parts, the change of the first answer token's probability in percent, by window position; a
            flow may be missing.
        tau: percent, above 0.
    """
    costs = {flow: [-change for change in curve] for flow, curve in changes.items()}
    asked, others = costs.get("asked→question", []), costs.get("others→question", [])
    specific = [one if one > other else 0.0 for one, other in zip(asked, others, strict=True)]
    ends = (costs.get(flow, []) for flow in ("question→last", "image→last"))
    return Stages(*(_costliest(one, tau) for one in (others, specific, *ends)))


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
