"""Find how to describe images for a checkpoint: `lookonce calibrate MODEL --images scenes|DIR -o profile.json`.

Candidates are scoring windows, whose attention is recorded, and selections, at several retentions. On `scenes` answers
are held to the truth; on a folder of pictures, of which nothing is known, to the full pass's own. One half of the
images chooses. On the other half the smallest retention that surely keeps the full pass's accuracy, but for the
tolerance, becomes the profile. `lookonce serve --profile` reads it.
"""

import argparse
import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from lookonce_evaluation.calibrating.candidates import RETENTIONS, ROWS, SELECTIONS, Candidate, Way, candidates
from lookonce_evaluation.calibrating.measuring import measure
from lookonce_evaluation.calibrating.report import candidates_table, not_shown, verified_table
from lookonce_evaluation.calibrating.search import Verified, halves, search, verify
from lookonce_evaluation.calibrating.tasks import QUESTIONS, Agreement, Labelled, Task
from lookonce_evaluation.commands import positive
from lookonce_evaluation.dataset import SEARCH_SEED, held_out
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.runs import JSON, Run
from lookonce_evaluation.subject import Subject
from lookonce_pruning import parse_window
from lookonce_server.profile import MAX_PROMPT, Checkpoint, Measured, Profile, check_selection
from lookonce_server.settings import BUNDLED, Settings

SCENES = "scenes"
SCENES_SEED = SEARCH_SEED + 50_000_000
"""First seed of the scenes: beyond those by which the candidates themselves were found."""


def main(arguments: list[str]) -> None:
    """The command."""
    options = _parser().parse_args(arguments)
    if not options.output.parent.is_dir():
        raise EvaluationError(f"--output {options.output}: there is no folder {options.output.parent}")
    task = _task(options)
    settings = Settings(**({"describe_prompt": options.describe_prompt} if options.describe_prompt else {}))
    subject = Subject.load(options.model, settings, options.device)
    layers = subject.runner.num_layers
    tried = candidates(layers, options.selections, options.rows, _windows(options.windows, layers))
    calibration = Calibration(subject, task, options.out, options.retentions, tried)
    chosen = smallest(calibration.run(options.tolerance), options.tolerance)
    profile = Profile(
        checkpoint=Checkpoint(name=_name(options.model), digest=subject.checkpoint),
        window="{}-{}".format(*chosen.way.candidate.window),
        rows=chosen.way.candidate.rows,
        selection=chosen.way.candidate.selection,
        retention=chosen.way.retention,
        describe_prompt=options.describe_prompt,
        measured=_measured(chosen, task, options),
    )
    profile.write(options.output)
    print(f"wrote {options.output}: {chosen.way}")


class Calibration:
    """One checkpoint's calibration, in a folder where it goes on if it was interrupted.

    Args:
        subject: the checkpoint.
        task: what it is asked.
        folder: of the results.
        retentions: to choose from.
        tried: the candidates to choose from.
    """

    def __init__(
        self, subject: Subject, task: Task, folder: Path, retentions: Sequence[float], tried: Sequence[Candidate]
    ) -> None:
        self._subject = subject
        self._task = task
        self._retentions = sorted(set(retentions))
        self._candidates = tried
        asked = {
            "command": "calibrate",
            "checkpoint": subject.fingerprint,
            "describe_prompt": subject.describe_prompt,
            "task": task.identity,
            "images": len(task.names),
            "retentions": self._retentions,
            "candidates": [str(candidate) for candidate in self._candidates],
        }
        self._run = Run(folder, asked)

    def run(self, tolerance: float) -> list[Verified]:
        """The winners of all retentions, measured on the other half of the images, the largest first."""
        choosing, verifying = halves(self._task.names)
        searched = search(self._candidates, self._retentions, choosing, self._measure)
        verified = verify(searched.best(), verifying, tolerance, self._measure)
        found = f"{candidates_table(searched)}\n\n{verified_table(verified, tolerance)}"
        print(found)
        self._run.write("table.md", found)
        return verified

    def _measure(self, stage: str, names: Sequence[str], ways: Sequence[Way]) -> list[JSON]:
        def work(name: str) -> JSON:
            return measure(self._subject, self._task.ask(self._subject, name), ways)

        return self._run.over(names, work, name=lambda name: f"{stage}: {name}")


def smallest(verified: Sequence[Verified], tolerance: float) -> Verified:
    """The one with the fewest bytes of those within the tolerance; and a word on the next smaller one.

    Raises:
        EvaluationError: none is.
    """
    shown = [one for one in verified if one.shown]
    rest = [one for one in verified if not one.shown]
    if not shown:
        raise EvaluationError(
            f"nothing is shown to be within --tolerance {tolerance:g}: {not_shown(rest[0], tolerance)}"
        )
    if rest:
        print(not_shown(rest[0], tolerance))
    return shown[-1]


def _measured(chosen: Verified, task: Task, options: argparse.Namespace) -> Measured:
    compared = chosen.compared
    return Measured(
        measure=task.measure,
        full_pass=round(compared.full, 4),
        context=round(compared.share, 4),
        at_least=round(compared.at_least, 4),
        tolerance=options.tolerance,
        images=compared.images,
        tokens=chosen.size.tokens,
        full_tokens=chosen.full.tokens,
        bytes=chosen.size.bytes,
        full_bytes=chosen.full.bytes,
        by=_told(options)[:400],
        version=version("lookonce"),
        on=datetime.now(UTC).date(),
    )


def _name(model: str) -> str:
    return "lookonce-scenes" if model == BUNDLED else Path(model).absolute().name


def _told(options: argparse.Namespace) -> str:
    """The command, without the folders of whoever ran it: the server tells it to everybody."""
    names = ("count", "tolerance", "retentions", "selections", "rows", "windows")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    values = {name: value if isinstance(value, list | tuple) else [value] for name, value in given.items()}
    words = [f"--{name} {shlex.join(map(str, value))}" for name, value in values.items()]
    return " ".join(
        ["lookonce calibrate", _name(options.model), "--images", Path(options.images).absolute().name, *words]
    )


def _task(options: argparse.Namespace) -> Task:
    if options.images == SCENES:
        if options.questions:
            raise EvaluationError("--questions: scenes have questions of their own; they are for a folder of pictures")
        return Labelled(held_out(options.count, SCENES_SEED), {"scenes": SCENES_SEED})
    folder = Path(options.images).expanduser()
    questions = _questions(options.questions) if options.questions else QUESTIONS
    task = Agreement(folder, options.count, questions)
    if len(task.names) < 2:
        raise EvaluationError(
            f"--images {folder}: expected two pictures at least, one that chooses and one that verifies"
        )
    return task


def _windows(given: Sequence[str] | None, num_layers: int) -> list[tuple[int, int]] | None:
    if given is None:
        return None
    try:
        found = [parse_window(text, num_layers) for text in given]
    except ValueError as error:
        raise EvaluationError(f"--windows: {error}") from None
    return [(window.start, window.stop) for window in found]


def _questions(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise EvaluationError(f"--questions {path}: {error}") from None
    found = [text for line in lines if (text := line.strip())]
    if not found:
        raise EvaluationError(f"--questions {path}: expected a question a line, and there is none")
    return found


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="lookonce calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("model", help="checkpoint folder, hub name, or 'bundled'")
    made.add_argument("--images", required=True, help="'scenes', or a folder of pictures")
    made.add_argument("--count", type=_several, default=200, help="images, half of them to verify [%(default)s]")
    made.add_argument("--questions", type=Path, help="file with a question a line, for a folder of pictures [built in]")
    made.add_argument(
        "--tolerance", type=_tolerance, default=0.01, help="share of the full pass that may be lost [%(default)s]"
    )
    made.add_argument(
        "--retentions", type=_retention, nargs="+", default=RETENTIONS, help="shares of the image tokens [%(default)s]"
    )
    made.add_argument("--selections", type=_selection, nargs="+", default=SELECTIONS, help="[%(default)s]")
    made.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="whose attention is scored [%(default)s]")
    made.add_argument("--windows", nargs="+", metavar="WINDOW", help="layers, as in 'middle' or '2-6' [many by depth]")
    made.add_argument("--describe-prompt", type=_prompt, help="the describe pass's instruction [the server's]")
    made.add_argument("--device", default="cpu", help="'cpu', 'cuda' or 'cuda:1' [%(default)s]")
    made.add_argument(
        "--out",
        type=Path,
        default=Path("runs/calibrate"),
        help="folder of the results; the same command goes on where one was interrupted [%(default)s]",
    )
    made.add_argument("-o", "--output", type=Path, default=Path("profile.json"), help="the profile [%(default)s]")
    return made


def _several(text: str) -> int:
    if (count := positive(text)) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 2 at least, one that chooses and one that verifies")
    return count


def _tolerance(text: str) -> float:
    return _share(text, lambda share: 0 <= share < 1, "at least 0 and below 1")


def _retention(text: str) -> float:
    return _share(text, lambda share: 0 < share <= 1, "above 0 and at most 1")


def _share(text: str, accepted: Callable[[float], bool], told: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = float("nan")
    if not accepted(share):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share, {told}")
    return share


def _prompt(text: str) -> str:
    if not 0 < len(text) <= MAX_PROMPT:
        raise argparse.ArgumentTypeError(f"{len(text)} characters; expected 1 to {MAX_PROMPT}")
    return text


def _selection(text: str) -> str:
    try:
        return check_selection(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
