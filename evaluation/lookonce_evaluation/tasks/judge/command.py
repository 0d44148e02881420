"""How much of a model's description survives in a context: `lookonce eval judge`.

Each image is described by the full pass, and again by a model that sees a context in the image's place, at each
retention: `decoded` is the same description decoded once more while its own tokens see the context alone; `asked again`
is the describe prompt asked of the context as any later question is. Objects are listed from both descriptions and
matched; an object of the original that is found again is a true positive. That is the protocol of Kaduri et al.
(arXiv 2411.17491), by rules for the scenes' words or by a language model behind any OpenAI-compatible endpoint.

With --pairs, pairs of descriptions of your own are judged: JSON lines with "original", "altered" and, if you like,
"way". With --check, the judge is held to a fixed set of pairs with counts made by hand.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from lookonce_evaluation.data.folder import read_lines
from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.describe import describe, describe_again, kept_tokens, retell
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.metrics.captions import Score
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.options import cases_of, parser, settings_for
from lookonce_evaluation.runs import Run
from lookonce_evaluation.tables import table
from lookonce_evaluation.tasks.judge.judges import (
    COLUMNS,
    Judge,
    RuleJudge,
    Summary,
    add_judge_options,
    judge_of,
    score,
    verdict,
)
from lookonce_server.settings import Settings

RETENTIONS = (0.2, 0.05, 0.02, 0.0)
FULL = "full pass"
COUNTED = ("by hand", "rules", "this judge")
Records = Sequence[Mapping[str, Any]]


class Pair(BaseModel):
    """A description, and what became of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    original: str
    altered: str
    way: str = "altered"  # pairs of one way are counted together


class Known(NamedTuple):
    """A pair whose counts are known, made by hand."""

    what: str  # what is altered
    original: str
    altered: str
    counts: Score


def read_pairs(path: Path) -> list[Pair]:
    """Read the pairs in a file, one a line; EvaluationError where a line is no pair."""
    pairs = []
    for where, text in read_lines("--pairs", path, "a pair of descriptions"):
        try:
            pairs.append(Pair.model_validate_json(text))
        except ValidationError as error:
            first = error.errors()[0]
            names = "".join(f"{name}: " for name in first["loc"])
            raise EvaluationError(
                f"{where}: {names}{first['msg']}; expected a JSON object with 'original' and 'altered', and 'way' if"
                " you like"
            ) from error
    return pairs


def fixed_set() -> list[Known]:
    """Read thirty pairs in the scenes' words, with counts made by hand."""
    text = (files("lookonce_evaluation.tasks.judge") / "fixed_set.jsonl").read_text(encoding="utf-8")
    pairs = map(json.loads, text.splitlines())
    return [Known(p["what"], p["original"], p["altered"], Score(p["tp"], p["fp"], p["fn"])) for p in pairs]


def judge_image(model: EvalModel, settings: Settings, judge: Judge, case: Case) -> dict[str, Any]:
    """Record the verdicts on an image's descriptions, by way."""
    described = describe(model, case, model.window(settings.window))
    texts = {FULL: described.text}
    for share in RETENTIONS:
        kept = kept_tokens(described, share, settings)
        texts[f"decoded, {share:.0%}"] = retell(model, described, kept)
        texts[f"asked again, {share:.0%}"] = describe_again(model, described, kept, model.describe_prompt)
    original = judge.objects(described.text)
    return {way: verdict(judge, text, original, case.objects) for way, text in texts.items()}


def judge_pair(judge: Judge, pair: Pair) -> dict[str, Any]:
    """Record the verdict on a pair, as of an image with one way."""
    return {pair.way: verdict(judge, pair.altered, judge.objects(pair.original), None)}


def judge_known(judge: Judge, known: Known) -> dict[str, Any]:
    """Record the counts of a pair of the fixed set, by each of COUNTED."""
    ours = verdict(judge, known.altered, judge.objects(known.original), None)
    counts = (known.counts, score(RuleJudge(), known.original, known.altered), ours["counts"])
    return {"what": known.what, "objects": ours["objects"], "counts": dict(zip(COUNTED, counts, strict=True))}


def summaries(records: Records, key: str) -> dict[str, Summary]:
    """Summarise the verdicts' "counts", or "against_scene", by way."""
    scores: dict[str, list[Score]] = {}
    for record in records:
        for way, verdicts in record.items():
            if verdicts[key] is not None:
                scores.setdefault(way, []).append(Score(*verdicts[key]))
    return {way: Summary.of(each) for way, each in scores.items()}


def ways_table(records: Records) -> str:
    """Write a line a way; F1 against the scene where that is known."""
    counted, seen = summaries(records, "counts"), summaries(records, "against_scene")
    return table(
        ["description", "images", *COLUMNS, *(("F1 against the scene",) if seen else ())],
        [[way, s.images, *s.cells, *([seen[way].cells[-1]] if seen else [])] for way, s in counted.items()],
    )


def agreement(records: Records, way: str) -> int:
    """Count the pairs to which this judge gives the same counts as `way`."""
    return sum(record["counts"][way] == record["counts"][COUNTED[-1]] for record in records)


def check_table(records: Records) -> str:
    """Write the counts by each of COUNTED, and the pairs that differ."""
    rows = []
    for way in COUNTED:
        summary = Summary.of([Score(*record["counts"][way]) for record in records])
        rows.append([way, len(records), *summary.cells, agreement(records, way)])
    text = table(["counted", "pairs", *COLUMNS, "pairs counted as this judge does"], rows)
    other = []
    for record in records:
        if record["counts"][COUNTED[0]] != record["counts"][COUNTED[-1]]:
            counts = ["TP {}, FP {}, FN {}".format(*record["counts"][way]) for way in COUNTED]
            other.append([record["what"], *counts, ", ".join(record["objects"]) or "-"])
    names = ("counted otherwise", *COUNTED, "objects found in the altered description")
    return f"{text}\n\n{table(names, other)}" if other else text


def check(judge: Judge, folder: Path) -> None:
    """Judge the fixed set, and write how far the counts agree.

    Raises:
        EvaluationError: the judge ignores colours, which the fixed set counts.
    """
    if judge.identity["ignore_colors"]:
        raise EvaluationError("--ignore-colors: the fixed set of --check was counted with colours; leave it out")
    run = Run(folder, {"command": "eval judge --check"} | judge.identity)
    records = run.over(fixed_set(), lambda known: judge_known(judge, known), name=lambda known: known.what)
    same = {way: agreement(records, way) for way in COUNTED[:2]}
    _write(run, check_table(records), judge, {"pairs": len(records), "same": same})


def main(arguments: list[str]) -> None:
    """Run the command."""
    command = parser("eval judge", __doc__, images=100)
    what = command.add_mutually_exclusive_group()
    what.add_argument("--pairs", type=Path, metavar="FILE", help="judge these pairs of descriptions; no model is run")
    what.add_argument("--images-folder", type=Path, metavar="DIR", help="describe these pictures [scenes]")
    what.add_argument("--check", action="store_true", help="judge the fixed set, whose counts are known")
    add_judge_options(command)
    options = command.parse_args(arguments)
    judge = judge_of(options)
    if options.check:
        check(judge, options.out / "check")
        return
    if options.pairs:
        pairs = list(enumerate(read_pairs(options.pairs), 1))
        digest = hashlib.blake2b(options.pairs.read_bytes(), digest_size=16).hexdigest()
        run = Run(options.out, {"command": "eval judge", "pairs": digest} | judge.identity)
        records = run.over(pairs, lambda pair: judge_pair(judge, pair[1]), name=lambda pair: str(pair[0]))
    else:
        cases, settings = cases_of(options), settings_for(options.model)
        model = EvalModel.load(options.model, settings, options.device)
        config = {
            "command": "eval judge",
            "fingerprint": model.fingerprint,
            "images": str(options.images_folder or "scenes"),
            "retentions": RETENTIONS,
            **settings.model_dump(include={"describe_prompt", "window", "rows", "selection"}),
        }
        run = Run(options.out, config | judge.identity)
        records = run.over(cases, lambda case: judge_image(model, settings, judge, case))
    keys = ("counts", "against_scene")
    result = {key: {way: summary.as_json() for way, summary in summaries(records, key).items()} for key in keys}
    _write(run, ways_table(records), judge, result)


def _write(run: Run, text: str, judge: Judge, result: dict[str, Any]) -> None:
    print(text)
    run.write("table.md", text)
    run.write_json("result.json", {**judge.identity, "judge_refused": judge.refused, **result})
