"""What the tokens of a describe prompt hold of an image, by prompt: `lookonce analyze prompts`.

For the default prompt, a shorter one, none, an unrelated one, specific questions and other wordings:

* what the prompt's own tokens hold: the description decoded while generated tokens see no image token in any layer,
  judged by the objects of the default prompt's description, and the answers from a context without image tokens;
* what it makes of the choice of image tokens: the answers from contexts that keep 5% and 2%.

`blind` is the default prompt with attention from its tokens to the image knocked out in every layer: what is guessed.
After Kaduri et al., arXiv 2411.17491, who find that query tokens hold a global description of the image.

Answers are graded on scenes. With --images-folder only descriptions are judged, by a language model: see --judge.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookonce_evaluation.commands import parser, settings_for
from lookonce_evaluation.dataset import Case, held_out, in_folder
from lookonce_evaluation.describing import Described
from lookonce_evaluation.grading import Grader
from lookonce_evaluation.judge import Judge, Score, truth
from lookonce_evaluation.judge.choosing import add_arguments, chosen
from lookonce_evaluation.judge.counting import verdict
from lookonce_evaluation.paired import Outcomes, mean_change
from lookonce_evaluation.retelling import blinded, kept_tokens, retell
from lookonce_evaluation.runs import Run
from lookonce_evaluation.subject import Subject
from lookonce_evaluation.tables import header, line
from lookonce_pruning import parse_window
from lookonce_scenes.questions import DESCRIBE_PROMPTS
from lookonce_server.errors import ModelRefusedError
from lookonce_server.settings import Settings

OTHERS = ("Describe.", "", "Thanks.", "How many objects are there?", "What color is the object?", *DESCRIBE_PROMPTS)
BLIND = "blind"
RETENTIONS = (0.0, 0.02, 0.05)
KINDS = {"acc": "ACC", "acc+": "ACC+", "open": "open"}
BlobStore = Sequence[Mapping[str, Any]]


def look(subject: Subject, settings: Settings, judge: Judge, prompts: Sequence[str], case: Case) -> dict[str, Any]:
    """An image's record: by prompt, the verdicts on its descriptions and the grades of its contexts.

    Args:
        subject: the checkpoint.
        settings: how contexts are made.
        judge: of descriptions.
        prompts: the default one first; its description is the original.
        case: the image.
    """
    window = parse_window(settings.window, subject.runner.num_layers)
    described = {prompt: subject.describe(case, window, prompt) for prompt in prompts}
    original = judge.objects(described[prompts[0]].text)
    there = truth(case.scene) if case.scene else None
    blind = blinded(subject, described[prompts[0]])

    def record(one: Described, prompt: str, seeing: str, shares: Sequence[float]) -> dict[str, Any]:
        alone = retell(subject, one, kept_tokens(one, 0.0, settings))
        return {
            "seeing": verdict(judge, seeing, original, there),
            "alone": verdict(judge, alone, original, there),
            "grades": [_grades(subject, settings, case, one, prompt, share) for share in shares],
        }

    shares = RETENTIONS if case.questions else ()
    records = {prompt: record(one, prompt, one.text, shares) for prompt, one in described.items()}
    return {"prompts": records, BLIND: record(blind, prompts[0], blind.text, shares[:1])}


def _grades(subject: Subject, settings: Settings, case: Case, one: Described, prompt: str, share: float) -> list[bool]:
    """Which questions are answered rightly from a context that ends with this prompt."""
    grader = Grader(subject.runner, subject.prompts, prompt)
    packed = one.packed(kept_tokens(one, share, settings), subject.runner.inv_freq)
    texts = [grader.after_context(question) for question in case.questions]
    return grader.grade(packed.keys, packed.values, packed.tokens, texts, case.questions).right


def outcomes(cases: Sequence[Case], records: BlobStore, way: str, share: float) -> Outcomes:
    """The answers from the contexts of one prompt, or of BLIND, at one retention."""
    made = Outcomes()
    for case, record in zip(cases, records, strict=True):
        made.add(case, _of(record, way)["grades"][RETENTIONS.index(share)])
    return made


def f1(records: BlobStore, way: str, what: str) -> list[float]:
    """By image: F1 of the description that was `seeing` the image, or that saw the prompt's tokens `alone`."""
    return [Score(*_of(record, way)[what]["counts"]).f1 for record in records]


def _of(record: Mapping[str, Any], way: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = record[BLIND] if way == BLIND else record["prompts"][way]
    return found


def held(cases: Sequence[Case], records: BlobStore, prompts: Sequence[str]) -> str:
    """The table of what the prompt's own tokens hold."""
    graded = bool(cases[0].questions)
    base = outcomes(cases, records, prompts[0], 0.0) if graded else None
    answers = (*KINDS.values(), "ACC, change") if graded else ()
    lines = [header("prompt", "F1 seeing the image", "F1 by its tokens alone", "change", *answers)]
    for way in (*prompts, BLIND):
        alone = f1(records, way, "alone")
        cells = [_named(way, prompts), "-" if way == BLIND else _mean(f1(records, way, "seeing")), _mean(alone)]
        cells.append("" if way == prompts[0] else str(mean_change(alone, f1(records, prompts[0], "alone"))))
        if base:
            ours = outcomes(cases, records, way, 0.0)
            cells += [f"{ours.percent(kind):.1f}" for kind in KINDS]
            cells.append("" if way == prompts[0] else str(ours.change(base, "acc")))
        lines.append(line(cells))
    return "\n".join(lines)


def chosen_by(cases: Sequence[Case], records: BlobStore, prompts: Sequence[str]) -> str:
    """The table of what is answered from the contexts that each prompt makes."""
    lines = [header("prompt", "kept", *(cell for kind in KINDS.values() for cell in (kind, "change")))]
    for share in sorted(RETENTIONS[1:], reverse=True):
        base = outcomes(cases, records, prompts[0], share)
        for prompt in prompts:
            ours = outcomes(cases, records, prompt, share)
            cells = [_named(prompt, prompts), f"{share:.0%}"]
            for kind in KINDS:
                cells += [f"{ours.percent(kind):.1f}", "" if prompt == prompts[0] else str(ours.change(base, kind))]
            lines.append(line(cells))
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> str:
    return f"{100 * sum(values) / len(values):.1f}"


def _named(way: str, prompts: Sequence[str]) -> str:
    if way == BLIND:
        return f"{prompts[0]} (blind)"
    return way.replace("|", "\\|") or "(empty)"


def taken(subject: Subject, prompts: Sequence[str]) -> list[str]:
    """The prompts that the checkpoint's chat template renders, with text after the image; others are told of.

    Raises:
        ModelRefusedError: not even the first, the default.
    """
    subject.prompts.check_template(prompts[0])
    return [prompt for prompt in prompts if _is_taken(subject, prompt)]


def _is_taken(subject: Subject, prompt: str) -> bool:
    try:
        subject.prompts.check_template(prompt)
    except ModelRefusedError as error:
        print(f"prompt {prompt!r} is left out: {error}")
        return False
    if subject.prompts.describe_ids(prompt)[-1] == subject.prompts.image_id:
        print(f"prompt {prompt!r} is left out: the chat template puts no text after the image then")
        return False
    return True


def main(arguments: list[str]) -> None:
    """The command."""
    made = parser("analyze prompts", __doc__, images=100)
    made.add_argument("--images-folder", type=Path, metavar="DIR", help="look at these pictures [scenes]")
    made.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="another prompt; may be repeated")
    add_arguments(made)
    options = made.parse_args(arguments)
    who = chosen(options, scenes=not options.images_folder)
    cases = in_folder(options.images_folder, options.images) if options.images_folder else held_out(options.images)
    settings = settings_for(options.model)
    subject = Subject.load(options.model, settings, options.device)
    prompts = taken(subject, list(dict.fromkeys((settings.describe_prompt, *OTHERS, *options.prompt))))
    asked = {
        "command": "analyze prompts",
        "fingerprint": subject.fingerprint,
        "images": str(options.images_folder or "scenes"),
        "prompts": prompts,
        "retentions": RETENTIONS,
        **settings.model_dump(include={"window", "rows", "selection"}),
    }
    run = Run(options.out, asked | who.asked)
    records = run.over(
        cases, lambda case: look(subject, settings, who.judge, prompts, case), name=lambda case: case.name
    )
    tables = {"table.md": held(cases, records, prompts)}
    if cases[0].questions:
        tables["contexts.md"] = chosen_by(cases, records, prompts)
    for name, text in tables.items():
        print(text)
        run.write(name, text)
    run.write_json("result.json", result(cases, records, prompts) | who.told)


def result(cases: Sequence[Case], records: BlobStore, prompts: Sequence[str]) -> dict[str, Any]:
    """The same figures as JSON, in percent."""
    found: dict[str, Any] = {}
    for way in (*prompts, BLIND):
        shares = RETENTIONS[: len(_of(records[0], way)["grades"])]
        found[way] = {
            "f1_seeing": None if way == BLIND else round(100 * sum(f1(records, way, "seeing")) / len(records), 2),
            "f1_alone": round(100 * sum(f1(records, way, "alone")) / len(records), 2),
            "contexts": {
                f"{share:g}": {kind: round(outcomes(cases, records, way, share).percent(kind), 2) for kind in KINDS}
                for share in shares
            },
        }
    return {"images": len(records), "ways": found}
