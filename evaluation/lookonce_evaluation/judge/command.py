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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookonce_evaluation.commands import parser, settings_for
from lookonce_evaluation.dataset import Case, held_out, in_folder
from lookonce_evaluation.judge.check import check
from lookonce_evaluation.judge.choosing import Chosen, add_arguments, chosen
from lookonce_evaluation.judge.counting import COLUMNS, Summary, verdict
from lookonce_evaluation.judge.pairs import Pair, read_pairs
from lookonce_evaluation.judge.protocol import Judge, Score
from lookonce_evaluation.judge.rules import truth
from lookonce_evaluation.retelling import describe_again, kept_tokens, retell
from lookonce_evaluation.runs import Run
from lookonce_evaluation.subject import Subject
from lookonce_evaluation.tables import header, line
from lookonce_pruning import parse_window
from lookonce_server.settings import Settings

RETENTIONS = (0.2, 0.05, 0.02, 0.0)
FULL = "full pass"


def judge_image(subject: Subject, settings: Settings, judge: Judge, case: Case) -> dict[str, Any]:
    """An image's record: what is said of it by the full pass and from each context, and the verdicts."""
    described = subject.describe(case, parse_window(settings.window, subject.runner.num_layers))
    original, there = judge.objects(described.text), truth(case.scene) if case.scene else None
    texts = {FULL: described.text}
    for share in RETENTIONS:
        kept = kept_tokens(described, share, settings)
        texts[f"decoded, {share:.0%}"] = retell(subject, described, kept)
        texts[f"asked again, {share:.0%}"] = describe_again(subject, described, kept, subject.describe_prompt)
    return {way: verdict(judge, text, original, there) for way, text in texts.items()}


def judge_pair(judge: Judge, pair: Pair) -> dict[str, Any]:
    """A pair's record, as an image with one way."""
    return {pair.way: verdict(judge, pair.altered, judge.objects(pair.original), None)}


def summaries(records: Sequence[Mapping[str, Any]], key: str) -> dict[str, Summary]:
    """By way, those of the scores that the verdicts hold: "counts", or "against_scene" where there are any."""
    found: dict[str, list[Score]] = {}
    for record in records:
        for way, one in record.items():
            if one[key] is not None:
                found.setdefault(way, []).append(Score(*one[key]))
    return {way: Summary.of(scores) for way, scores in found.items()}


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Of the records: a line a way, and F1 against what the scenes hold, where they are known."""
    counted, seen = summaries(records, "counts"), summaries(records, "against_scene")
    scene = ("F1 against the scene",) if seen else ()
    lines = [header("description", "images", *COLUMNS, *scene)]
    for way, summary in counted.items():
        lines.append(line([way, summary.images, *summary.cells, *([seen[way].cells[-1]] if seen else [])]))
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """The command."""
    made = parser("eval judge", __doc__, images=100)
    what = made.add_mutually_exclusive_group()
    what.add_argument("--pairs", type=Path, metavar="FILE", help="judge these pairs of descriptions; no model is run")
    what.add_argument("--images-folder", type=Path, metavar="DIR", help="describe these pictures [scenes]")
    what.add_argument("--check", action="store_true", help="judge the fixed set, whose counts are known")
    add_arguments(made)
    options = made.parse_args(arguments)
    who = chosen(options, scenes=not options.images_folder)
    if options.check:
        check(who, options.out / "check")
        return
    if options.pairs:
        _pairs(options.pairs, who, options.out)
        return
    cases = in_folder(options.images_folder, options.images) if options.images_folder else held_out(options.images)
    settings = settings_for(options.model)
    subject = Subject.load(options.model, settings, options.device)
    asked = {
        "command": "eval judge",
        "fingerprint": subject.fingerprint,
        "images": str(options.images_folder or "scenes"),
        "retentions": RETENTIONS,
        **settings.model_dump(include={"describe_prompt", "window", "rows", "selection"}),
    }
    run = Run(options.out, asked | who.asked)
    _write(run, run.over(cases, lambda c: judge_image(subject, settings, who.judge, c), name=lambda c: c.name), who)


def _pairs(path: Path, who: Chosen, out: Path) -> None:
    pairs = read_pairs(path)
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    run = Run(out, {"command": "eval judge", "pairs": digest} | who.asked)
    numbered = list(enumerate(pairs, 1))
    _write(run, run.over(numbered, lambda p: judge_pair(who.judge, p[1]), name=lambda p: str(p[0])), who)


def _write(run: Run, records: list[dict[str, Any]], who: Chosen) -> None:
    text = table(records)
    print(text)
    run.write("table.md", text)
    found = {
        key: {way: s.as_json() for way, s in summaries(records, key).items()} for key in ("counts", "against_scene")
    }
    run.write_json("result.json", who.told | found)
