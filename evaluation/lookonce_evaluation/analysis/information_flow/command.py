"""How an image's content flows to what is said: `lookonce analyze knockout`.

Attention is knocked out between groups of tokens, in sets of layers. Descriptions are judged by their objects, against
the ordinary ones; answers by whether they are right, and by the probability of their first token.

Without --images-folder and --questions, held-out scenes are described and asked about. With either, what it names is
measured alone: a folder's pictures are described and judged by --judge, a file's questions are asked.
"""

import argparse
import hashlib
from pathlib import Path

from lookonce_evaluation.analysis.information_flow.measure import Plan, ask_record, describe_record
from lookonce_evaluation.analysis.information_flow.questions import ImageQuestion, about_objects, read_questions
from lookonce_evaluation.analysis.information_flow.report import markdown, plot_f1, plot_flows
from lookonce_evaluation.analysis.information_flow.results import TAU, results
from lookonce_evaluation.analysis.information_flow.trials import default_step, default_window
from lookonce_evaluation.data.folder import in_folder
from lookonce_evaluation.data.scenes import Case, held_out
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.options import number, parser, positive, settings_for
from lookonce_evaluation.runs import Run
from lookonce_evaluation.tasks.judge import add_judge_options, judge_of

ASKED = 100
"""Scenes that are asked about."""


def main(arguments: list[str]) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    judge = judge_of(options, scenes=not options.images_folder)
    cases, questions = _cases(options), _questions(options)
    model = EvalModel.load(options.model, settings_for(options.model), options.device)
    width = options.window or default_window(model.num_layers)
    step = options.step or default_step(model.num_layers)
    if width > model.num_layers:
        raise EvaluationError(f"--window {width}: expected at most {model.num_layers}, the model's number of layers")
    plan = Plan.of(model.num_layers, width, step)
    asked = {
        "command": "analyze knockout",
        "model": model.fingerprint,
        "describe_prompt": model.describe_prompt,
        "window": width,
        "step": step,
        "images": str(options.images_folder.resolve()) if options.images_folder else "scenes",
        "questions": hashlib.sha256(options.questions.read_bytes()).hexdigest() if options.questions else "scenes",
    }
    run = Run(options.out, asked | judge.identity)
    described = run.over(
        cases,
        lambda case: describe_record(model, judge, case, plan, rows=options.rows),
        name=lambda case: f"describe {case.name}",
    )
    answered = run.over(
        questions,
        lambda named: ask_record(model, named[1], plan, rows=options.rows),
        name=lambda named: f"ask {named[0]}",
    )
    found = results(plan, described, answered, options.tau)
    run.write("table.md", markdown(found, width, options.tau))
    about = {"window": width, "step": step, "tau": options.tau, **judge.identity, "judge_refused": judge.refused}
    run.write_json("result.json", about | found.as_json())
    if found.f1:
        plot_f1(found, run.folder / "f1.png")
    if found.flows["all"].changes:
        plot_flows(found, run.folder / "flows.png")


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
    add("--rows", type=positive, default=64, help="most trials in one forward pass [%(default)s]")
    return command


def _cases(options: argparse.Namespace) -> list[Case]:
    """What is described."""
    if options.images_folder:
        return in_folder(options.images_folder, options.images)
    return [] if options.questions else held_out(options.images)


def _questions(options: argparse.Namespace) -> list[tuple[str, list[ImageQuestion]]]:
    """What is asked, by image."""
    if options.questions:
        return read_questions(options.questions)
    return [] if options.images_folder else [(case.name, about_objects(case)) for case in held_out(options.asked)]
