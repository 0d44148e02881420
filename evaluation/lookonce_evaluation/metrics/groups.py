"""Exact answers to questions about several images, by group of questions, beside the full pass."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from lookonce_evaluation.album_methods import Method
from lookonce_evaluation.data.image_set import ImageSet
from lookonce_evaluation.joins import ImagesRun
from lookonce_evaluation.metrics.bootstrap import Estimate, means, shares_of_first
from lookonce_evaluation.metrics.grading import grade
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.tables import table
from lookonce_server.settings import Settings

Groups = Mapping[str, Sequence[Sequence[int]]]
"""By name: the numbers of each image set's questions that belong to it."""


COSTS = ("tokens", "computed", "stored")


class Group(NamedTuple):
    """The answers to one group's questions."""

    questions: int
    percent: float
    of_full: Estimate | None  # the same as a percentage of the full pass's; None where that had nothing right
    change: Estimate  # to the full pass, in points

    def as_json(self) -> dict[str, Any]:
        """Write everything."""
        estimates = {"of full pass": self.of_full, "to full pass": self.change}
        return {
            "questions": self.questions,
            "percent": self.percent,
            **{name: estimate and estimate._asdict() for name, estimate in estimates.items()},
        }


class GroupRow(NamedTuple):
    """The outcomes of the methods of one name and retention; numbers are means."""

    name: str
    retention: float | None
    tokens: float  # in context before the question
    computed: float  # of the prompt, run for a question
    stored: float  # bytes
    groups: dict[str, Group]  # those whose questions it was asked

    def as_json(self) -> dict[str, Any]:
        """Write everything."""
        return {**self._asdict(), "groups": {name: group.as_json() for name, group in self.groups.items()}}


@torch.inference_mode()
def record(model: EvalModel, images: ImageSet, methods: Sequence[Method], settings: Settings) -> list[Any]:
    """Record a set by method: grades, margins, and what it costs; None for a question that is not asked."""
    run, records = ImagesRun(model, images, settings), []
    answers = [model.answer_ids(question.answer) for question in images.questions]
    for method in methods:
        columns: dict[str, list[Any]] = {name: [None] * len(answers) for name in ("right", "margins", *COSTS)}
        for asked in method.prepare(run):
            graded = grade(model, asked.cache, [answers[i] for i in asked.questions])
            for at, i in enumerate(asked.questions):
                columns["right"][i] = int(graded.right[at])
                columns["margins"][i] = round(graded.margins[at], 4)
                columns["tokens"][i] = asked.cache.tokens
                columns["computed"][i] = asked.computed + len(asked.cache.prompts[at])
                columns["stored"][i] = asked.stored
        records.append(columns)
    return records


def rows_of(methods: Sequence[Method], records: Sequence[Any], groups: Groups) -> list[GroupRow]:
    """Put the questions of all sets together, by method; the first method is the full pass."""
    by_name: dict[tuple[str, float | None], list[int]] = {}
    for place, method in enumerate(methods):
        by_name.setdefault((method.name, method.retention), []).append(place)
    rows = []
    for (name, share), places in by_name.items():
        columns = [each[place] for each in records for place in places]
        costs = {
            what: _mean([v for column in columns for v in column[what]]) for what in ("tokens", "computed", "stored")
        }
        right = [_pooled([each[place]["right"] for place in places]) for each in records]
        full = [each[0]["right"] for each in records]
        found = {group: compare(right, full, numbers) for group, numbers in groups.items()}
        rows.append(GroupRow(name, share, **costs, groups={group: one for group, one in found.items() if one}))
    return rows


def compare(
    right: Sequence[Sequence[float | None]], full: Sequence[Sequence[float]], numbers: Sequence[Sequence[int]]
) -> Group | None:
    """Compare grades with those of the full pass; None where a question was not asked.

    Args:
        right: by set and question.
        full: likewise.
        numbers: of the questions that count, by set.
    """
    pairs = [[(theirs[i], ours[i]) for i in own] for ours, theirs, own in zip(right, full, numbers, strict=True)]
    if not any(pairs) or any(ours is None for questions in pairs for _, ours in questions):
        return None
    values = [[(100.0 * theirs, 100.0 * float(ours or 0.0)) for theirs, ours in questions] for questions in pairs]
    shares = shares_of_first([[(theirs / 100, ours) for theirs, ours in questions] for questions in values])
    changes = means([[(ours, ours - theirs) for theirs, ours in questions] for questions in values])
    return Group(sum(map(len, values)), changes[0].value, shares[1] if shares else None, changes[1])


def group_table(rows: Sequence[GroupRow], groups: Sequence[str]) -> str:
    """Write accuracies by group, and what an answer costs."""
    names = [name for group in groups for name in (group, f"{group}: of full pass (95%)")]

    def cells(row: GroupRow) -> list[str]:
        shown = [
            text
            for group in groups
            for text in (_percent(row, group), _of_full(row, group) if row is not rows[0] else "100%")
        ]
        return [kept(row), row.name, f"{row.tokens:.0f}", f"{row.computed:.0f}", f"{row.stored / 1024:.0f}", *shown]

    return table(["kept", "way", "tokens", "computed", "KiB stored", *names], map(cells, rows))


def percent_table(rows: Sequence[GroupRow], groups: Sequence[str]) -> str:
    """Write accuracies by group alone."""
    counts = [f"{group} ({rows[0].groups[group].questions})" for group in groups]
    return table(["kept", "way", *counts], ([kept(row), row.name, *(_percent(row, g) for g in groups)] for row in rows))


def kept(row: GroupRow) -> str:
    """Write a row's retention."""
    return "-" if row.retention is None else f"{100 * row.retention:g}%"


def _percent(row: GroupRow, group: str) -> str:
    return f"{row.groups[group].percent:.1f}" if group in row.groups else "-"


def _of_full(row: GroupRow, group: str) -> str:
    found = row.groups.get(group)
    return f"{found.of_full.shown(1)}%" if found and found.of_full else "-"


def _mean(values: Sequence[float | None]) -> float:
    """Average those that are there."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there)


def _pooled(grades: Sequence[Sequence[int | None]]) -> list[float | None]:
    """Average the grades of several seeds, by question."""
    return [None if None in of_one else sum(map(float, of_one)) / len(of_one) for of_one in zip(*grades, strict=True)]
