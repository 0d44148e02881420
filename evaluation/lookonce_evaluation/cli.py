"""The commands `lookonce eval`, `lookonce analyze` and `lookonce calibrate`.

Each command is a module with `main(arguments)`, imported when it is called.
"""

import argparse
import sys
from collections.abc import Mapping
from importlib import import_module

from lookonce_evaluation.errors import EvaluationError

EVAL = {
    "mme": ("lookonce_evaluation.tasks.mme", "MME, or questions of yours in its form, by retention"),
    "retention": ("lookonce_evaluation.tasks.retention", "accuracy by retention and selection"),
    "judge": ("lookonce_evaluation.tasks.judge.command", "how much of a description survives, judged by its objects"),
    "albums": ("lookonce_evaluation.tasks.albums", "questions about several images, by how contexts are joined"),
    "videos": ("lookonce_evaluation.tasks.videos", "questions about moving scenes, from contexts of their frames"),
    "fallback": ("lookonce_evaluation.tasks.fallback", "when to ask again with the whole image"),
}
ANALYZE = {
    "attention": (
        "lookonce_evaluation.analysis.attention.command",
        "where it looks while it describes, and whether words find objects",
    ),
    "knockout": (
        "lookonce_evaluation.analysis.information_flow.command",
        "how an image's content flows to what is said",
    ),
    "prompts": ("lookonce_evaluation.tasks.prompts", "what a describe prompt's own tokens hold, by prompt"),
}


def evaluate(arguments: list[str]) -> int:
    """Run `lookonce eval COMMAND`; returns the exit code."""
    return _dispatch("eval", EVAL, arguments)


def analyze(arguments: list[str]) -> int:
    """Run `lookonce analyze COMMAND`; returns the exit code."""
    return _dispatch("analyze", ANALYZE, arguments)


def calibrate(arguments: list[str]) -> int:
    """Run `lookonce calibrate`; returns the exit code."""
    return run("calibrate", "lookonce_evaluation.calibrate.command", arguments)


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return parsers that know the names of `eval`'s and `analyze`'s commands, for shells' completion."""
    found: dict[str, argparse.ArgumentParser] = {}
    for group, names in (("eval", EVAL), ("analyze", ANALYZE)):
        parser = found[group] = argparse.ArgumentParser(prog=f"lookonce {group}")
        commands = parser.add_subparsers(metavar="COMMAND")
        for name, (_, what) in names.items():
            commands.add_parser(name, help=what)
    return found


def _dispatch(group: str, commands: Mapping[str, tuple[str, str]], arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    if name not in commands:
        lines = [f"  {known:12} {what}" for known, (_, what) in commands.items()]
        is_help = name in ("-h", "--help")
        if name and not is_help:
            lines.append(f"\nlookonce {group}: no command {name!r}")
        lines.insert(0, f"usage: lookonce {group} COMMAND ...\n\ncommands (each has its --help):")
        print(*lines, sep="\n", file=sys.stdout if is_help else sys.stderr)
        return 0 if is_help else 2
    return run(f"{group} {name}", commands[name][0], arguments[1:])


def run(name: str, module: str, arguments: list[str]) -> int:
    """Call a command's `main`, and print an error as one line.

    Returns:
        The exit code: 0, 1 when it failed, 130 when Ctrl-C ended it.
    """
    main = import_module(module).main
    from lookonce_pruning import PruningError  # torch is there by now
    from lookonce_server.errors import ModelRefusedError

    try:
        main(arguments)
    except (EvaluationError, ModelRefusedError, PruningError) as error:
        sys.stderr.write(f"lookonce {name}: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130
    return 0
