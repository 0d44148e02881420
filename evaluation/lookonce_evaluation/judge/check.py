"""Whether a judge counts as a person does: the fixed set, by the judge, by the rules, and by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.judge.choosing import Chosen
from lookonce_evaluation.judge.counting import COLUMNS, Summary, verdict
from lookonce_evaluation.judge.pairs import Known, fixed_set
from lookonce_evaluation.judge.protocol import Judge, Score, score
from lookonce_evaluation.judge.rules import RuleJudge
from lookonce_evaluation.runs import Run
from lookonce_evaluation.tables import header, line

WAYS = ("by hand", "rules", "this judge")


def check(who: Chosen, folder: Path) -> None:
    """Judge the fixed set, and write how far the counts agree.

    Raises:
        EvaluationError: the judge ignores colours, which the fixed set counts.
    """
    if who.asked["ignore_colors"]:
        raise EvaluationError("--ignore-colors: the fixed set of --check was counted with colours; leave it out")
    run = Run(folder, {"command": "eval judge --check"} | who.asked)
    records = run.over(fixed_set(), lambda known: judge_known(who.judge, known), name=lambda known: known.what)
    text = table(records)
    print(text)
    run.write("table.md", text)
    agreement = {way: same(records, way) for way in WAYS[:2]}
    run.write_json("result.json", {**who.told, "pairs": len(records), "same": agreement})


def judge_known(judge: Judge, known: Known) -> dict[str, Any]:
    """The record of one pair: its counts by each way."""
    found = verdict(judge, known.altered, judge.objects(known.original), None)
    counts = (known.counts, score(RuleJudge(), known.original, known.altered), found["counts"])
    return {"what": known.what, "objects": found["objects"], "counts": dict(zip(WAYS, counts, strict=True))}


def same(records: Sequence[Mapping[str, Any]], way: str) -> int:
    """How many pairs this judge gives the same counts as `way`."""
    return sum(record["counts"][way] == record["counts"][WAYS[-1]] for record in records)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The counts by each way, and the pairs on which the judge differs from the counts made by hand."""
    lines = [header("counted", "pairs", *COLUMNS, "pairs counted as this judge does")]
    for way in WAYS:
        summary = Summary.of([Score(*record["counts"][way]) for record in records])
        lines.append(line([way, len(records), *summary.cells, same(records, way)]))
    other = [record for record in records if record["counts"][WAYS[0]] != record["counts"][WAYS[-1]]]
    if other:
        lines += ["", header("counted otherwise", *WAYS, "objects found in the altered description")]
        for record in other:
            counts = ["TP {}, FP {}, FN {}".format(*record["counts"][way]) for way in WAYS]
            lines.append(line([record["what"], *counts, ", ".join(record["objects"]) or "-"]))
    return "\n".join(lines)
