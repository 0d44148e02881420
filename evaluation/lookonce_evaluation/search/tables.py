"""The records of a search as tables: a pure function of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lookonce_evaluation import tables
from lookonce_evaluation.dataset import Case
from lookonce_evaluation.paired import Outcomes

KINDS = ("acc", "acc+", "open")


class Result(NamedTuple):
    """What the ways reached at one retention."""

    retention: float
    full: Outcomes
    ways: dict[str, Outcomes]
    tokens: dict[str, float]  # in context before the question, mean

    def summary(self, families: Mapping[str, str]) -> dict[str, Any]:
        """All figures, in percent, to be written as JSON."""
        ways = [
            {"name": name, "family": families[name], "tokens": self.tokens[name], **_figures(outcomes)}
            for name, outcomes in self.ways.items()
        ]
        return {"retention": self.retention, "full pass": _figures(self.full), "ways": ways}


def _figures(outcomes: Outcomes) -> dict[str, Any]:
    return {kind: {"mean": outcomes.percent(kind), **outcomes.by_category(kind)} for kind in KINDS}


def results(cases: Sequence[Case], records: Sequence[Mapping[str, Any]]) -> list[Result]:
    """The records, counted by retention."""
    return [_result(retention, cases, records) for retention in records[0] if retention != "full"]


def _result(retention: str, cases: Sequence[Case], records: Sequence[Mapping[str, Any]]) -> Result:
    names = list(records[0][retention])
    full, ways = Outcomes(), {name: Outcomes() for name in names}
    for case, record in zip(cases, records, strict=True):
        full.add(case, _right(record["full"]))
        for name, outcomes in ways.items():
            outcomes.add(case, _right(record[retention][name]["right"]))
    tokens = {name: sum(one[retention][name]["tokens"] for one in records) / len(records) for name in names}
    return Result(float(retention), full, ways, tokens)


def _right(digits: str) -> list[bool]:
    return [digit == "1" for digit in digits]


def markdown(found: Sequence[Result], families: Mapping[str, str], reference: str) -> str:
    """A table a retention: the best ACC first within a family, families as they were searched.

    Args:
        found: what was reached.
        families: of each way.
        reference: the way that the others are compared with.
    """
    return "\n\n".join(_table(result, families, reference) for result in found)


def _table(result: Result, families: Mapping[str, str], reference: str) -> str:
    head = tables.header(
        f"kept: {result.retention:.0%}", "way", "tokens", "ACC", "of the full pass", "ACC+", "open",
        "ACC, to the full pass", f"ACC, to {reference}",
    )  # fmt: skip
    full = result.full.percent("acc")
    first = ["-", "full pass", "-", f"{full:.1f}", "100.0%", *(f"{result.full.percent(k):.1f}" for k in KINDS[1:])]
    lines = [tables.line([*first, "-", result.full.change(result.ways[reference], "acc")])]
    order = list(dict.fromkeys(families.values()))
    ranked = sorted(result.ways, key=lambda n: (order.index(families[n]), -result.ways[n].percent("acc")))
    for name in ranked:
        outcomes = result.ways[name]
        acc, plus, single = (outcomes.percent(kind) for kind in KINDS)
        cells = [families[name], name, f"{result.tokens[name]:.0f}", f"{acc:.1f}", f"{100 * acc / full:.1f}%"]
        changes = [outcomes.change(result.full, "acc"), outcomes.change(result.ways[reference], "acc")]
        lines.append(tables.line([*cells, f"{plus:.1f}", f"{single:.1f}", *changes]))
    return "\n".join([head, *lines])
