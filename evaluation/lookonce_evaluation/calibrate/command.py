"""Find the best settings for a checkpoint: `lookonce calibrate MODEL --images scenes|DIR`.

It tries candidates: windows of layers whose attention is recorded, and selections, at several retentions. On `scenes`
their answers are compared with the truth. Of a folder of pictures nothing is known: there they are compared with the
full pass's own. One half of the images chooses. The other half verifies: the smallest retention that surely keeps the
full pass's accuracy, but for the tolerance, becomes the profile. `lookonce serve --profile` reads it.
"""

import argparse
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from lookonce_evaluation.calibrate.search import (
    ROWS,
    SELECTIONS,
    Verified,
    best,
    candidates,
    not_shown,
    search,
    searched_table,
    verified_table,
    verify,
)
from lookonce_evaluation.calibrate.tasks import QUESTIONS, Agreement, Labelled, Task, key, measure
from lookonce_evaluation.data.folder import read_lines
from lookonce_evaluation.data.scenes import SEARCH_SEED, held_out
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.methods import Context
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.options import bare_parser, number, positive
from lookonce_evaluation.runs import JSON, Run
from lookonce_pruning import parse_window
from lookonce_server.profile import MAX_PROMPT, Checkpoint, Measured, Profile, check_selection
from lookonce_server.settings import BUNDLED, Settings

SCENES = "scenes"
SCENES_SEED = SEARCH_SEED + 50_000_000
"""First seed of the scenes: beyond those by which the candidates themselves were found."""
RETENTIONS = (0.01, 0.02, 0.05, 0.1, 0.2)


def main(arguments: list[str]) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    if not options.output.parent.is_dir():
        raise EvaluationError(f"--output {options.output}: there is no folder {options.output.parent}")
    task = _task(options)
    settings = Settings(**({"describe_prompt": options.describe_prompt} if options.describe_prompt else {}))
    model = EvalModel.load(options.model, settings, options.device)
    tried = candidates(model.num_layers, options.selections, options.rows, _windows(options.windows, model.num_layers))
    winners = calibrate(model, task, tried, options)
    winner = smallest(winners, options.tolerance)
    method = winner.method
    profile = Profile(
        checkpoint=Checkpoint(name=_name(options.model), digest=model.checkpoint),
        window="{}-{}".format(*method.window),
        rows=method.rows,
        selection=method.selection,
        retention=method.retention,
        describe_prompt=options.describe_prompt,
        measured=_measured(winner, task, options),
    )
    profile.write(options.output)
    print(f"wrote {options.output}: {key(method)}")


def calibrate(model: EvalModel, task: Task, tried: Sequence[Context], options: argparse.Namespace) -> list[Verified]:
    """Find the winners of all retentions, the largest retention first."""
    retentions = sorted(set(options.retentions))
    config = {
        "command": "calibrate",
        "checkpoint": model.fingerprint,
        "describe_prompt": model.describe_prompt,
        "task": task.identity,
        "images": len(task.names),
        "retentions": retentions,
        "candidates": [candidate.name for candidate in tried],
    }
    run = Run(options.out, config)

    def measured(stage: str, names: Sequence[str], methods: Sequence[Context]) -> list[JSON]:
        return run.over(
            names,
            lambda name: measure(model, task.ask(model, name), methods),
            name=lambda name: f"{stage}: {name}",
            label=f"{stage} (candidates: {len(methods)})",
        )

    middle = len(task.names) // 2
    shares, finalists = search(tried, retentions, task.names[:middle], measured)
    verified = verify(best(finalists), task.names[middle:], options.tolerance, measured)
    text = f"{searched_table(shares, finalists)}\n\n{verified_table(verified, options.tolerance)}"
    print(text)
    run.write("table.md", text)
    return verified


def smallest(verified: Sequence[Verified], tolerance: float) -> Verified:
    """Take the smallest winner within the tolerance, and print the next smaller.

    Raises:
        EvaluationError: none is.
    """
    shown = [winner for winner in verified if winner.shown]
    rest = [winner for winner in verified if not winner.shown]
    if not shown:
        reason = not_shown(rest[0], tolerance)
        raise EvaluationError(f"nothing is shown to be within --tolerance {tolerance:g}: {reason}")
    if rest:
        print(not_shown(rest[0], tolerance))
    return shown[-1]


def _measured(winner: Verified, task: Task, options: argparse.Namespace) -> Measured:
    compared = winner.compared
    return Measured(
        measure=task.measure,
        full_pass=round(compared.full, 4),
        context=round(compared.share, 4),
        at_least=round(compared.at_least, 4),
        tolerance=options.tolerance,
        images=compared.images,
        tokens=winner.size.tokens,
        full_tokens=winner.full.tokens,
        bytes=winner.size.bytes,
        full_bytes=winner.full.bytes,
        by=_shown_command(options)[:400],
        version=version("lookonce"),
        on=datetime.now(UTC).date(),
    )


def _name(model: str) -> str:
    return "lookonce-scenes" if model == BUNDLED else Path(model).absolute().name


def _shown_command(options: argparse.Namespace) -> str:
    """Write the command without its folders: the server shows it to everybody."""
    words = ["lookonce calibrate", _name(options.model), "--images", Path(options.images).absolute().name]
    for name in ("count", "tolerance", "retentions", "selections", "rows", "windows"):
        value = getattr(options, name)
        if value is not None:
            values = value if isinstance(value, list | tuple) else [value]
            words.append(f"--{name} {shlex.join(map(str, values))}")
    return " ".join(words)


def _task(options: argparse.Namespace) -> Task:
    if options.images == SCENES:
        if options.questions:
            raise EvaluationError("--questions: scenes have questions of their own; they are for a folder of pictures")
        return Labelled(held_out(options.count, SCENES_SEED), {"scenes": SCENES_SEED})
    questions: Sequence[str] = QUESTIONS
    if options.questions:
        questions = [text for _, text in read_lines("--questions", options.questions, "a question")]
    folder = Path(options.images).expanduser()
    task = Agreement(folder, options.count, questions)
    if len(task.names) < 2:
        raise EvaluationError(
            f"--images {folder}: expected two pictures at least, one that chooses and one that verifies"
        )
    return task


def _windows(texts: Sequence[str] | None, num_layers: int) -> list[tuple[int, int]] | None:
    try:
        windows = [parse_window(text, num_layers) for text in texts or ()]
    except ValueError as error:
        raise EvaluationError(f"--windows: {error}") from None
    return [(window.start, window.stop) for window in windows] or None


def _parser() -> argparse.ArgumentParser:
    command = bare_parser("calibrate", __doc__)
    retention = number(lambda share: 0 < share <= 1, "a share, above 0 and at most 1")
    tolerance = number(lambda share: 0 <= share < 1, "a share, at least 0 and below 1")
    add = command.add_argument
    add("model", metavar="MODEL", help="checkpoint folder, hub name, or 'bundled'")
    add("--images", metavar="SOURCE", required=True, help="'scenes', or a folder of pictures")
    add("--count", metavar="N", type=_several, default=200, help="images, half of them to verify [%(default)s]")
    add(
        "--questions",
        metavar="FILE",
        type=Path,
        help="file with a question a line, for a folder of pictures [built in]",
    )
    text = "share of the full pass that may be lost [%(default)s]"
    add("--tolerance", metavar="SHARE", type=tolerance, default=0.01, help=text)
    text = f"shares of the image tokens [{_listed(RETENTIONS)}]"
    add("--retentions", metavar="SHARE", type=retention, nargs="+", default=RETENTIONS, help=text)
    add(
        "--selections",
        metavar="NAME",
        type=_selection,
        nargs="+",
        default=SELECTIONS,
        help=f"how tokens are chosen [{_listed(SELECTIONS)}]",
    )
    add("--rows", nargs="+", choices=ROWS, default=ROWS, help=f"whose attention is scored [{_listed(ROWS)}]")
    add("--windows", nargs="+", metavar="LAYERS", help="layers, as in 'middle' or '2-6' [many by depth]")
    add("--describe-prompt", metavar="TEXT", type=_prompt, help="the describe pass's instruction [the server's]")
    add("-o", "--output", metavar="FILE", type=Path, default=Path("profile.json"), help="the profile [%(default)s]")
    return command


def _listed(values: Sequence[object]) -> str:
    return " ".join(map(str, values))


def _several(text: str) -> int:
    if (count := positive(text)) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 2 at least, one that chooses and one that verifies")
    return count


def _prompt(text: str) -> str:
    if not 0 < len(text) <= MAX_PROMPT:
        raise argparse.ArgumentTypeError(f"{len(text)} characters; expected 1 to {MAX_PROMPT}")
    return text


def _selection(text: str) -> str:
    try:
        return check_selection(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
