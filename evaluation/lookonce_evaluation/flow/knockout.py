"""How an image's content flows to what is said: `lookonce analyze knockout`.

Attention is knocked out between groups of tokens, in sets of layers. Descriptions are judged by their objects, against
the ordinary ones; answers by whether they are right, and by the probability of their first token.

Without --images-folder and --questions, held-out scenes are described and asked about. With either, what it names is
measured alone: a folder's pictures are described and judged by --judge, a file's questions are asked.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

from lookonce_evaluation.commands import parser, positive, settings_for
from lookonce_evaluation.dataset import Case, held_out, in_folder
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.flow.asking import Asked, about_objects, read_questions
from lookonce_evaluation.flow.layers import default_step, default_window
from lookonce_evaluation.flow.measuring import Plan, ask, describe
from lookonce_evaluation.flow.plots import f1_by_layers, flows_by_window
from lookonce_evaluation.flow.results import Results, results
from lookonce_evaluation.flow.stages import TAU
from lookonce_evaluation.flow.tables import markdown
from lookonce_evaluation.judge.choosing import add_arguments, chosen
from lookonce_evaluation.runs import Run
from lookonce_evaluation.subject import Subject

ASKED = 100
"""Scenes that are asked about."""


def main(arguments: list[str]) -> None:
    """The command."""
    options = _parser().parse_args(arguments)
    who = chosen(options, scenes=not options.images_folder)
    cases, questions = _cases(options), _questions(options)
    subject = Subject.load(options.model, settings_for(options.model), options.device)
    num_layers = subject.runner.num_layers
    width = options.window or default_window(num_layers)
    step = options.step or default_step(num_layers)
    if width > num_layers:
        raise EvaluationError(f"--window {width}: expected at most {num_layers}, the model's number of layers")
    plan = Plan.of(num_layers, width, step)
    asked = {
        "command": "analyze knockout",
        "model": subject.fingerprint,
        "describe_prompt": subject.describe_prompt,
        "window": width,
        "step": step,
        "images": str(options.images_folder.resolve()) if options.images_folder else "scenes",
        "questions": hashlib.sha256(options.questions.read_bytes()).hexdigest() if options.questions else "scenes",
    }
    run = Run(options.out, asked | who.asked)
    described = run.over(
        cases,
        lambda case: describe(subject, who.judge, case, plan, rows=options.rows),
        name=lambda case: f"describe {case.name}",
    )
    answered = run.over(
        questions,
        lambda named: ask(subject, named[1], plan, rows=options.rows),
        name=lambda named: f"ask {named[0]}",
    )
    settings = {"window": width, "step": step, "tau": options.tau, **who.told}
    _write(run, results(plan, described, answered, options.tau), settings)


def _write(run: Run, found: Results, settings: dict[str, Any]) -> None:
    run.write("table.md", markdown(found, settings["window"], settings["tau"]))
    run.write_json("result.json", settings | found.as_json())
    if found.f1:
        f1_by_layers(found, run.folder / "f1.png")
    if found.flows["all"].changes:
        flows_by_window(found, run.folder / "flows.png")


def _parser() -> argparse.ArgumentParser:
    made = parser("analyze knockout", __doc__, images=100)
    made.add_argument("--asked", type=positive, default=ASKED, help="how many scenes are asked about [%(default)s]")
    made.add_argument("--images-folder", type=Path, help="describe the pictures of a folder, at most --images of them")
    made.add_argument(
        "--questions",
        type=Path,
        help='ask a file\'s, JSON lines: {"image": "a.png", "question": "...", "answer": "..."}',
    )
    made.add_argument(
        "--window", type=positive, help="layers of the sliding window [9 from 18 layers on, else in proportion, odd]"
    )
    made.add_argument("--step", type=positive, help="layers from one place to the next [a sixteenth of them, or 1]")
    made.add_argument("--tau", type=_percent, default=TAU, help="percent that a stage costs at least [%(default)g]")
    add_arguments(made)
    made.add_argument("--rows", type=positive, default=64, help="most trials in one forward pass [%(default)s]")
    return made


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0, at most 100")
    return value


def _cases(options: argparse.Namespace) -> list[Case]:
    """What is described."""
    if options.images_folder:
        return in_folder(options.images_folder, options.images)
    return [] if options.questions else held_out(options.images)


def _questions(options: argparse.Namespace) -> list[tuple[str, list[Asked]]]:
    """What is asked, by image."""
    if options.questions:
        return read_questions(options.questions)
    return [] if options.images_folder else [(case.name, about_objects(case)) for case in held_out(options.asked)]
