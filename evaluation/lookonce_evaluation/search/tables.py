"""The records of a search as tables: a pure function of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lookonce_evaluation import tables
from lookonce_evaluation.dataset import Case
from lookonce_evaluation.paired import Outcomes

KINDS = ("acc", "acc+", "open")
NAMES = ("ACC", "ACC+", "open")


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
        f"kept: {result.retention:.0%}", "way", "tokens", *NAMES, "ACC, to the full pass", f"ACC, to {reference}"
    )
    base = result.ways[reference]
    lines = [tables.line(["-", "full pass", "-", *_shares(result.full, result), "-", result.full.change(base, "acc")])]
    order = list(dict.fromkeys(families.values()))
    for name in sorted(result.ways, key=lambda n: (order.index(families[n]), -result.ways[n].percent("acc"))):
        outcomes = result.ways[name]
        changes = [outcomes.change(result.full, "acc"), outcomes.change(base, "acc") if name != reference else "-"]
        tokens = f"{result.tokens[name]:.0f}"
        lines.append(tables.line([families[name], name, tokens, *_shares(outcomes, result), *changes]))
    return "\n".join([head, *lines])


def _shares(outcomes: Outcomes, result: Result) -> list[str]:
    """ACC, ACC+ and open, each with its share of the full pass's."""
    figures = [(outcomes.percent(kind), result.full.percent(kind)) for kind in KINDS]
    return [f"{reached:.1f} ({100 * reached / full:.1f}%)" if full else f"{reached:.1f}" for reached, full in figures]


def by_category(found: Sequence[Result]) -> str:
    """ACC / ACC+ / open of each category, a table for all retentions."""
    categories = list(found[0].full.by_category("acc"))
    head = tables.header("kept", "way", *categories)
    lines = [tables.line(["-", "full pass", *_cells(found[0].full, categories)])]
    for result in found:
        for name, outcomes in result.ways.items():
            lines.append(tables.line([f"{result.retention:.0%}", name, *_cells(outcomes, categories)]))
    return "\n".join([head, *lines])


def _cells(outcomes: Outcomes, categories: Sequence[str]) -> list[str]:
    shares = [outcomes.by_category(kind) for kind in KINDS]
    return [" / ".join(f"{by[one]:.1f}" if one in by else "-" for by in shares) for one in categories]
