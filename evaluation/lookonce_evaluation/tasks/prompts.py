"""Compare describe prompts: `lookonce analyze prompts`.

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

from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.describe import DescribePass, blind, describe, kept_tokens, retell
from lookonce_evaluation.metrics.bootstrap import mean_change
from lookonce_evaluation.metrics.captions import Score
from lookonce_evaluation.metrics.grading import grade_exactly
from lookonce_evaluation.metrics.mme import KINDS, Outcomes
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.options import cases_of, parser, settings_for
from lookonce_evaluation.runs import Run
from lookonce_evaluation.tables import table
from lookonce_evaluation.tasks.judge.judges import Judge, add_judge_options, judge_of, verdict
from lookonce_scenes.questions import DESCRIBE_PROMPTS
from lookonce_server.errors import ModelRefusedError
from lookonce_server.settings import Settings

OTHERS = ("Describe.", "", "Thanks.", "How many objects are there?", "What color is the object?", *DESCRIBE_PROMPTS)
BLIND = "blind"
RETENTIONS = (0.0, 0.02, 0.05)
Records = Sequence[Mapping[str, Any]]


def measure(model: EvalModel, settings: Settings, judge: Judge, prompts: Sequence[str], case: Case) -> dict[str, Any]:
    """Record an image's verdicts and grades, by prompt."""
    window = model.window(settings.window)
    passes = {prompt: describe(model, case, window, prompt) for prompt in prompts}
    original = judge.objects(passes[prompts[0]].text)

    def record(described: DescribePass, prompt: str, shares: Sequence[float]) -> dict[str, Any]:
        alone = retell(model, described, kept_tokens(described, 0.0, settings))
        texts = [model.after_context(question.text, prompt) for question in case.questions]
        caches = [described.context(kept_tokens(described, share, settings)) for share in shares]
        return {
            "seeing": verdict(judge, described.text, original, case.objects),
            "alone": verdict(judge, alone, original, case.objects),
            "grades": [grade_exactly(model, each._replace(prompts=texts), case.questions).right for each in caches],
        }

    shares = RETENTIONS if case.questions else ()
    records = {prompt: record(described, prompt, shares) for prompt, described in passes.items()}
    return {"prompts": records, BLIND: record(blind(model, passes[prompts[0]]), prompts[0], shares[:1])}


def outcomes(cases: Sequence[Case], records: Records, prompt: str, share: float) -> Outcomes:
    """Count the answers from the contexts of one prompt, or of BLIND."""
    place = RETENTIONS.index(share)
    return Outcomes.of(cases, [_of(record, prompt)["grades"][place] for record in records])


def f1(records: Records, prompt: str, what: str) -> list[float]:
    """List F1 by image of the descriptions `seeing` it, or by tokens `alone`."""
    return [Score(*_of(record, prompt)[what]["counts"]).f1 for record in records]


def _of(record: Mapping[str, Any], prompt: str) -> Mapping[str, Any]:
    of_prompt: Mapping[str, Any] = record[BLIND] if prompt == BLIND else record["prompts"][prompt]
    return of_prompt


def held_table(cases: Sequence[Case], records: Records, prompts: Sequence[str]) -> str:
    """Write the table of what the prompt's own tokens hold."""
    base = outcomes(cases, records, prompts[0], 0.0) if cases[0].questions else None
    answers = (*KINDS.values(), "ACC, change") if base else ()
    rows = []
    for prompt in (*prompts, BLIND):
        is_base, alone = prompt == prompts[0], f1(records, prompt, "alone")
        cells = [_named(prompt, prompts), "-" if prompt == BLIND else _mean(f1(records, prompt, "seeing"))]
        cells += [_mean(alone), "" if is_base else str(mean_change(alone, f1(records, prompts[0], "alone")))]
        if base:
            ours = outcomes(cases, records, prompt, 0.0)
            cells += [f"{ours.percent(kind):.1f}" for kind in KINDS]
            cells.append("" if is_base else str(ours.change(base, "acc")))
        rows.append(cells)
    return table(("prompt", "F1 seeing the image", "F1 by its tokens alone", "change", *answers), rows)


def contexts_table(cases: Sequence[Case], records: Records, prompts: Sequence[str]) -> str:
    """Write the table of what is answered from the contexts that each prompt makes."""
    rows = []
    for share in sorted(RETENTIONS[1:], reverse=True):
        base = outcomes(cases, records, prompts[0], share)
        for prompt in prompts:
            ours = outcomes(cases, records, prompt, share)
            cells = [_named(prompt, prompts), f"{share:.0%}"]
            for kind in KINDS:
                cells += [f"{ours.percent(kind):.1f}", "" if prompt == prompts[0] else str(ours.change(base, kind))]
            rows.append(cells)
    return table(("prompt", "kept", *(cell for kind in KINDS.values() for cell in (kind, "change"))), rows)


def _mean(values: Sequence[float]) -> str:
    return f"{100 * sum(values) / len(values):.1f}"


def _named(prompt: str, prompts: Sequence[str]) -> str:
    return f"{prompts[0]} (blind)" if prompt == BLIND else prompt.replace("|", "\\|") or "(empty)"


def usable(model: EvalModel, prompts: Sequence[str]) -> list[str]:
    """List the prompts that the chat template takes, and print the others.

    Raises:
        ModelRefusedError: it does not take the first, the default.
    """
    model.prompts.check_template(prompts[0])
    return [prompt for prompt in prompts if _is_usable(model, prompt)]


def _is_usable(model: EvalModel, prompt: str) -> bool:
    try:
        model.prompts.check_template(prompt)
    except ModelRefusedError as error:
        print(f"prompt {prompt!r} is left out: {error}")
        return False
    if model.prompts.describe_ids(prompt)[-1] == model.prompts.image_id:
        print(f"prompt {prompt!r} is left out: the chat template puts no text after the image then")
        return False
    return True


def main(arguments: list[str]) -> None:
    """Run the command."""
    command = parser("analyze prompts", __doc__, images=100)
    command.add_argument("--images-folder", type=Path, metavar="DIR", help="look at these pictures [scenes]")
    text = "another prompt; may be repeated"
    command.add_argument("--prompt", action="append", default=[], metavar="TEXT", help=text)
    add_judge_options(command)
    options = command.parse_args(arguments)
    judge, cases = judge_of(options), cases_of(options)
    settings = settings_for(options.model)
    model = EvalModel.load(options.model, settings, options.device)
    prompts = usable(model, list(dict.fromkeys((settings.describe_prompt, *OTHERS, *options.prompt))))
    config = {
        "command": "analyze prompts",
        "fingerprint": model.fingerprint,
        "images": str(options.images_folder or "scenes"),
        "prompts": prompts,
        "retentions": RETENTIONS,
        **settings.model_dump(include={"window", "rows", "selection"}),
    }
    run = Run(options.out, config | judge.identity)
    records = run.over(cases, lambda case: measure(model, settings, judge, prompts, case))
    tables = {"table.md": held_table(cases, records, prompts)}
    if cases[0].questions:
        tables["contexts.md"] = contexts_table(cases, records, prompts)
    for name, text in tables.items():
        print(text)
        run.write(name, text)
    run.write_json("result.json", result(cases, records, prompts) | judge.identity | {"judge_refused": judge.refused})


def result(cases: Sequence[Case], records: Records, prompts: Sequence[str]) -> dict[str, Any]:
    """Write the same figures as JSON, in percent."""
    ways: dict[str, Any] = {}
    for prompt in (*prompts, BLIND):
        contexts = {
            f"{share:g}": {kind: round(outcomes(cases, records, prompt, share).percent(kind), 2) for kind in KINDS}
            for share in RETENTIONS[: len(_of(records[0], prompt)["grades"])]
        }
        f1s = [round(100 * sum(f1(records, prompt, what)) / len(records), 2) for what in ("seeing", "alone")]
        seeing = None if prompt == BLIND else f1s[0]
        ways[prompt] = {"f1_seeing": seeing, "f1_alone": f1s[1], "contexts": contexts}
    return {"images": len(records), "ways": ways}
