"""Which way to make a context keeps most: `lookonce eval search`.

Every way answers the same questions about the same scenes, at two retentions. The confirmation, which compares the
chosen way with the baselines, asks about scenes that the search never sees.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lookonce_evaluation.commands import parser, positive, settings_for
from lookonce_evaluation.dataset import SEARCH_SEED, Case, held_out
from lookonce_evaluation.runs import Run
from lookonce_evaluation.search import baselines, holding, merging, normalising, rereading, spreading, tables, windows
from lookonce_evaluation.search.candidate import Candidate, Look, Way, middle_half
from lookonce_evaluation.subject import Subject
from lookonce_pruning import Knockout, kept_count, middle_layers

FAMILIES = (baselines, windows, spreading, normalising, rereading, merging, holding)
RETENTIONS = (0.05, 0.02)


def candidates(num_layers: int) -> list[Candidate]:
    """Every way that is searched."""
    return [candidate for family in FAMILIES for candidate in family.candidates(num_layers)]


def chosen(num_layers: int) -> str:
    """The way that the search chose for the bundled model."""
    return windows.named(middle_half(num_layers))


def before(num_layers: int) -> str:
    """The way that ways are compared with: the paper's window."""
    return windows.named(middle_layers(num_layers))


def confirmed(num_layers: int) -> list[Candidate]:
    """The ways that are reported on: the chosen one first."""
    names = [chosen(num_layers), before(num_layers)]
    short = [one for one in candidates(num_layers) if one.name in names or one.family == baselines.FAMILY]
    return sorted(short, key=lambda one: names.index(one.name) if one.name in names else len(names))


def answers(subject: Subject, case: Case, ways: Sequence[Candidate]) -> dict[str, Any]:
    """An image's grades, `1` and `0` in the order of its questions: of the full pass, and of each way and retention."""
    look = Look(subject, case)
    tokens = len(look.described.prompt.image_positions)
    record: dict[str, Any] = {"full": _digits(subject.full_pass(case)[0].right)}
    for retention in RETENTIONS:
        keep = kept_count(retention, tokens)
        record[str(retention)] = {way.name: _answer(look, way, keep) for way in ways}
    return record


def _answer(look: Look, candidate: Candidate, keep: int) -> dict[str, Any]:
    way = candidate.make(look, keep)
    with blocking(look, way):
        right = look.subject.ask(look.case, way.context.keys, way.context.values).right
    return {"right": _digits(right), "tokens": way.context.tokens}


def blocking(look: Look, way: Way) -> AbstractContextManager[object]:
    """While an image's questions are asked, which share a batch: the layers that do not look at the image tokens."""
    if not way.blocked:
        return nullcontext()
    return Knockout(look.subject.runner.model, [way.blocked] * len(look.case.questions))


def _digits(right: Sequence[bool]) -> str:
    return "".join(str(int(one)) for one in right)


def main(arguments: list[str]) -> None:
    """The command."""
    made = parser("eval search", __doc__, images=120)
    made.add_argument("--confirm", type=positive, default=500, help="scenes of the confirmation [%(default)s]")
    made.add_argument("--part", choices=("search", "confirm"), help="only this one of the two [both]")
    options = made.parse_args(arguments)
    subject = Subject.load(options.model, settings_for(options.model), options.device)
    layers = subject.runner.num_layers
    if options.part != "confirm":
        cases = held_out(options.images, SEARCH_SEED)
        _run(options.out / "search", subject, cases, candidates(layers), before(layers))
    if options.part != "search":
        _run(options.out / "confirm", subject, held_out(options.confirm), confirmed(layers), chosen(layers))


def _run(folder: Path, subject: Subject, cases: list[Case], ways: list[Candidate], reference: str) -> None:
    """Answer what is not answered yet, and write the tables beside the records."""
    asked = {"command": "search", "model": subject.fingerprint, "describe_prompt": subject.describe_prompt}
    run = Run(folder, {**asked, "retentions": RETENTIONS, "ways": [way.name for way in ways]})
    records = run.over(cases, lambda case: answers(subject, case, ways), name=lambda case: case.name)
    families = {way.name: way.family for way in ways}
    results = tables.results(cases, records)
    run.write("table.md", tables.markdown(results, families, reference))
    run.write("categories.md", tables.by_category(results))
    run.write_json("result.json", [result.summary(families) for result in results])
