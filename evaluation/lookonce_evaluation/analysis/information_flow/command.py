"""How an image's content flows to what is said: `lookonce analyze knockout`.

Attention is knocked out between groups of tokens, in sets of layers. Descriptions are judged by their objects, against
the ordinary ones; answers by whether they are right, and by the probability of their first token.

Without --images-folder and --questions, held-out scenes are described and asked about. With either, what it names is
measured alone: a folder's pictures are described and judged by --judge, a file's questions are asked.
"""

import argparse
import hashlib
from pathlib import Path

from lookonce_evaluation.analysis.information_flow.questions import ImageQuestion, about_objects, read_questions
from lookonce_evaluation.analysis.information_flow.results import TAU, markdown, plot_f1, plot_flows, results_of
from lookonce_evaluation.analysis.information_flow.trials import (
    Plan,
    ask_record,
    default_step,
    default_window,
    describe_record,
)
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.options import cases_of, number, parser, positive, settings_for
from lookonce_evaluation.runs import Run
from lookonce_evaluation.tasks.judge.judges import add_judge_options, judge_of

ASKED = 100
"""Scenes that are asked about."""


def main(arguments: list[str]) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    judge, questions = judge_of(options), _questions(options)
    cases = cases_of(options) if options.images_folder or not options.questions else []
    model = EvalModel.load(options.model, settings_for(options.model), options.device)
    width = options.window or default_window(model.num_layers)
    step = options.step or default_step(model.num_layers)
    if width > model.num_layers:
        raise EvaluationError(f"--window {width}: expected at most {model.num_layers}, the model's number of layers")
    plan = Plan.of(model.num_layers, width, step)
    config = {
        "command": "analyze knockout",
        "model": model.fingerprint,
        "describe_prompt": model.describe_prompt,
        "window": width,
        "step": step,
        "images": str(options.images_folder.resolve()) if options.images_folder else "scenes",
        "questions": hashlib.sha256(options.questions.read_bytes()).hexdigest() if options.questions else "scenes",
    }
    run = Run(options.out, config | judge.identity)
    described = run.over(
        cases,
        lambda case: describe_record(model, judge, case, plan),
        name=lambda case: f"describe {case.name}",
    )
    answered = run.over(
        questions,
        lambda named: ask_record(model, named[1], plan),
        name=lambda named: f"ask {named[0]}",
    )
    results = results_of(plan, described, answered, options.tau)
    run.write("table.md", markdown(results, width, options.tau))
    about = {"window": width, "step": step, "tau": options.tau, **judge.identity, "judge_refused": judge.refused}
    run.write_json("result.json", about | results.as_json())
    if results.f1:
        plot_f1(results, run.folder / "f1.png")
    if results.flows["all"].changes:
        plot_flows(results, run.folder / "flows.png")


def _parser() -> argparse.ArgumentParser:
    command = parser("analyze knockout", __doc__, images=100)
    add = command.add_argument
    add("--asked", type=positive, default=ASKED, help="how many scenes are asked about [%(default)s]")
    add("--images-folder", type=Path, help="describe the pictures of a folder, at most --images of them")
    text = 'ask a file\'s, JSON lines: {"image": "a.png", "question": "...", "answer": "..."}'
    add("--questions", type=Path, help=text)
    text = "layers of the sliding window [9 from 18 layers on, else in proportion, odd]"
    add("--window", type=positive, help=text)
    add("--step", type=positive, help="layers from one place to the next [a sixteenth of them, or 1]")
    percent = number(lambda value: 0 < value <= 100, "a number above 0, at most 100")
    add("--tau", type=percent, default=TAU, help="percent that a stage costs at least [%(default)g]")
    add_judge_options(command)
    return command


def _questions(options: argparse.Namespace) -> list[tuple[str, list[ImageQuestion]]]:
    """List the questions by image."""
    if options.questions:
        return read_questions(options.questions)
    return [] if options.images_folder else [(case.name, about_objects(case)) for case in held_out(options.asked)]
