"""Rerun every evaluation and put its results into docs/research/: `make report`.

Each command writes tables, plots and JSON into a folder of its own. A page there says which of them it shows:

    <!-- report: eval-retention/table.md -->
    (anything; replaced by the command that was run, and the file)
    <!-- /report -->

Plots become images/eval-retention-<name>.png there, and result.json results/eval-retention.json.
"""

import argparse
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from lookonce_evaluation.cli import analyze, calibrate, evaluate
from lookonce_evaluation.errors import EvaluationError

_MARKED = re.compile(r"<!-- report: (?P<run>[a-z-]+)/(?P<file>[\w./-]+) -->\n.*?<!-- /report -->", re.DOTALL)
_COMMANDS: dict[str, Callable[[list[str]], int]] = {"eval": evaluate, "analyze": analyze, "calibrate": calibrate}


class Step(NamedTuple):
    """A command of the report."""

    name: str  # as in "eval retention"
    arguments: str  # besides --out

    @property
    def run(self) -> str:
        """The name of its folder."""
        return self.name.replace(" ", "-")

    @property
    def shown(self) -> str:
        """The command line."""
        return f"lookonce {self.name} {self.arguments}".rstrip()

    def perform(self, runs: Path) -> None:
        """Run it; EvaluationError if it fails."""
        command, *rest = self.name.split()
        print(f"\n{self.shown}", flush=True)
        code = _COMMANDS[command]([*rest, *shlex.split(self.arguments), "--out", str(runs / self.run)])
        if code:
            raise EvaluationError(f"`{self.shown}` ended with exit code {code}")


# The others evaluate the bundled model with its profile, so the calibration that makes it comes first.
STEPS = (
    Step(
        "calibrate",
        "bundled --images scenes --count 400 --tolerance 0.02 --retentions 0.02 0.05 --windows middle 2-6"
        " --rows generated --selections coverage attention uniform -o scenes/lookonce_scenes/profile.json",
    ),
    Step("eval retention", "--images 300"),
    Step("eval judge", ""),
    Step("eval fallback", "--images 200 --search 200"),
    Step("eval albums", "--images 200"),
    Step("eval videos", "--images 200"),
    Step("analyze knockout", ""),
    Step("analyze prompts", "--images 100"),
    Step("analyze attention", "--images 100"),
)


def fill(page: str, steps: Mapping[str, Step], runs: Path) -> str:
    """Put the results into their places in a page.

    Raises:
        EvaluationError: a page shows what no command wrote.
    """

    def filled(mark: re.Match[str]) -> str:
        step = steps.get(mark["run"])
        if step is None:
            return mark[0]
        file = runs / mark["run"] / mark["file"]
        if not file.is_file():
            raise EvaluationError(f"a page shows {file}, which `{step.shown}` did not write")
        first = mark[0].partition("\n")[0]
        return f"{first}\n```bash\n{step.shown}\n```\n\n{file.read_text().strip()}\n<!-- /report -->"

    return _MARKED.sub(filled, page)


def publish(step: Step, runs: Path, docs: Path) -> None:
    """Copy a run's plots and figures to where the pages refer to them."""
    for file in (runs / step.run).glob("*"):
        if file.suffix == ".png":
            shutil.copy(file, docs / "images" / f"{step.run}-{file.name}")
        elif file.name == "result.json":
            shutil.copy(file, docs / "results" / f"{step.run}.json")


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m lookonce_evaluation.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--docs", type=Path, default=Path("docs/research"), help="folder of the pages [%(default)s]")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs [%(default)s]")
    parser.add_argument(
        "--only", nargs="+", choices=[step.run for step in STEPS], metavar="RUN", help="some of: %(choices)s"
    )
    options = parser.parse_args(arguments)
    steps = [step for step in STEPS if not options.only or step.run in options.only]
    for step in steps:
        step.perform(options.runs)
        publish(step, options.runs, options.docs)
    for path in sorted(options.docs.glob("*.md")):
        path.write_text(fill(path.read_text(), {step.run: step for step in steps}, options.runs))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except EvaluationError as error:
        sys.exit(f"report: {error}")
