"""Print completion scripts for shells, made by shtab from the commands' own parsers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import plugins
from .parser import PLUGIN_HELP, build_parser

SHELLS = ("bash", "zsh", "fish")
_EPILOG = """\
bash:  lookonce completion bash > ~/.local/share/bash-completion/completions/lookonce
zsh:   lookonce completion zsh > ~/.zfunc/_lookonce    (a folder of your $fpath)
fish:  lookonce completion fish > ~/.config/fish/completions/lookonce.fish"""


def run(arguments: Sequence[str]) -> int:
    """Run `lookonce completion SHELL`; returns the exit code."""
    own = _own_parser()
    shell = own.parse_args(arguments).shell
    try:
        import shtab
    except ModuleNotFoundError:
        sys.stderr.write(
            "lookonce completion needs the package 'shtab', which is not installed.\n"
            "It comes with: pip install 'lookonce[completion]'\n"
        )
        return 2
    parser, add_parser, _ = build_parser()
    known = plugins.parsers() | {"completion": own}
    for name in sorted({*plugins.find(), "completion"}):
        parents = [known[name]] if name in known else []
        add_parser(name, help=PLUGIN_HELP.get(name, ""), add_help=not parents, parents=parents)
    print(shtab.complete(parser, shell))
    return 0


def _own_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookonce completion",
        description="Print the completion script for a shell. Write it to a file that the shell reads:",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    return parser
