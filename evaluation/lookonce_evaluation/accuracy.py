"""Accuracy of ways to answer, made from their answers' records: rows, and the tables and JSON made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from lookonce_evaluation.dataset import Case
from lookonce_evaluation.paired import Asked, Outcomes
from lookonce_evaluation.subject import Subject
from lookonce_evaluation.tables import header, line
from lookonce_evaluation.ways import Look, Ready, Way
from lookonce_scenes.questions import Question

Grade = Callable[[Ready, list[Question]], Sequence[bool]]
KINDS = {"acc": "ACC", "acc+": "ACC+", "open": "open"}


def described(ways: Sequence[Way]) -> list[Any]:
    """The ways, as a run's file names what was asked."""
    return [{"way": type(way).__name__, **asdict(way)} for way in ways]  # type: ignore[call-overload]


def answered(subject: Subject, case: Case, ways: Sequence[Way], grade: Grade) -> list[Any]:
    """The record of one image: each way's tokens and bytes in context, and which questions it answered right."""
    look = Look(subject, case)
    records = []
    for way in ways:
        ready = way.ready(look)
        right = "".join("01"[one] for one in grade(ready, case.questions))
        records.append({"tokens": ready.tokens, "bytes": ready.bytes, "right": right})
    return records


class Row(NamedTuple):
    """What the ways of one name and retention reached: one way, or a seeded one by each seed."""

    name: str
    retention: float | None
    tokens: float  # in context before the question, mean
    bytes: float  # of keys and values, mean
    seeds: list[Outcomes]
    outcomes: Outcomes  # of all seeds

    @property
    def kept(self) -> str:
        """The retention, as tables have it."""
        return "-" if self.retention is None else f"{100 * self.retention:g}%"

    def percent(self, kind: str) -> str:
        """An accuracy, and the seeds' lowest and highest where there are several."""
        mean = f"{self.outcomes.percent(kind):.1f}"
        found = [one.percent(kind) for one in self.seeds]
        return mean if len(found) == 1 else f"{mean} ({min(found):.1f} to {max(found):.1f})"

    def as_json(self, full: Outcomes) -> dict[str, Any]:
        """Everything; differences are to the full pass."""
        kinds = {
            kind: {
                "percent": self.outcomes.percent(kind),
                "to full pass": self.outcomes.change(full, kind)._asdict(),
                "by category": self.outcomes.by_category(kind),
                "by seed": [one.percent(kind) for one in self.seeds],
            }
            for kind in self.outcomes.kinds
        }
        return {"name": self.name, "retention": self.retention, "tokens": self.tokens, "bytes": self.bytes, **kinds}


def rows_of(
    cases: Sequence[Asked], ways: Sequence[Way], records: Sequence[Any], categories: Sequence[str]
) -> list[Row]:
    """The rows, in the order of the ways, of those images that are asked about one of the categories.

    Args:
        cases: the images.
        ways: as they were answered.
        records: of each image.
        categories: the only ones that count, and the only ones that these images may be asked about.
    """
    chosen = [
        (case, record) for case, record in zip(cases, records, strict=True) if {*case.pairs, *case.open} & {*categories}
    ]
    by_name: dict[tuple[str, float | None], list[int]] = {}
    for place, way in enumerate(ways):
        by_name.setdefault((way.name, way.retention), []).append(place)
    return [_row(name, share, places, chosen, categories) for (name, share), places in by_name.items()]


def _row(
    name: str, share: float | None, places: list[int], chosen: list[tuple[Asked, Any]], categories: Sequence[str]
) -> Row:
    seeds = []
    for place in places:
        outcomes = Outcomes(categories)
        for case, record in chosen:
            outcomes.add(case, [right == "1" for right in record[place]["right"]])
        seeds.append(outcomes)
    tokens, size = (
        sum(record[place][what] for _, record in chosen for place in places) / len(chosen) / len(places)
        for what in ("tokens", "bytes")
    )
    return Row(name, share, tokens, size, seeds, Outcomes.pooled(seeds))


def as_json(rows: Sequence[Row]) -> list[Any]:
    """The rows, the full pass first."""
    return [row.as_json(rows[0].outcomes) for row in rows]


def table(rows: Sequence[Row], more: Mapping[str, Callable[[Row], str]] | None = None) -> str:
    """The rows, the full pass first, with the 95% intervals of their differences to it, in points.

    Args:
        rows: the table's.
        more: further columns, by name.
    """
    full, more = rows[0].outcomes, more or {}
    lines = [header("kept", "way", "tokens", "KiB", *_columns(full.kinds), *more)]
    for row in rows:
        cells = [row.kept, row.name, f"{row.tokens:.0f}", f"{row.bytes / 1024:.0f}"]
        for kind in full.kinds:
            cells += [row.percent(kind), "-" if row is rows[0] else str(row.outcomes.change(full, kind))]
            if kind == "acc":
                cells.insert(-1, of_full(row.outcomes.percent(kind), full.percent(kind)))
        lines.append(line([*cells, *(shown(row) for shown in more.values())]))
    return "\n".join(lines)


def of_full(percent: float, full: float) -> str:
    """A share of the full pass's accuracy."""
    return f"{100 * percent / full:.1f}%" if full else "-"


def _columns(kinds: Sequence[str]) -> list[str]:
    names = [name for kind in kinds for name in (KINDS[kind], "to full pass (95%)")]
    return [names[0], "of full pass", *names[1:]]


def by_category(rows: Sequence[Row]) -> str:
    """The rows' accuracies in each category."""
    categories = [one for one in rows[0].outcomes.categories if one in rows[0].outcomes.by_category("acc")]
    lines = [header("kept", "way", *categories)]
    for row in rows:
        shares = [row.outcomes.by_category(kind) for kind in row.outcomes.kinds]
        cells = [" / ".join(f"{by[c]:.1f}" if c in by else "-" for by in shares) for c in categories]
        lines.append(line([row.kept, row.name, *cells]))
    return "\n".join(lines)
