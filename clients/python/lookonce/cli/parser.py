"""The arguments of the `lookonce` command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from .._client import DEFAULT_SERVER, DEFAULT_TIMEOUT
from . import ask, chat, contexts, describe, plugins

COMMANDS = ("ask", "chat", "describe", "contexts")
SERVER_VARIABLE, KEY_VARIABLE = "LOOKONCE_SERVER", "LOOKONCE_API_KEY"
_PLUGIN_HELP = {
    "serve": "run a server (needs the extra `server`; options: lookonce serve --help)",
    "new-key": "make an API key for a server (needs the extra `server`)",
    "eval": "measure what a checkpoint keeps of its accuracy (needs the extra `eval`)",
    "analyze": "see where a checkpoint looks, and what that does (needs the extra `eval`)",
    "calibrate": "find how to describe images for a checkpoint (needs the extra `eval`)",
}
_Commands = argparse._SubParsersAction  # argparse has no public name for it


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read a command line; its `run` is the command's function. Exits where it is wrong or asks for help."""
    parser = argparse.ArgumentParser(
        prog="lookonce",
        description="Look at an image once, ask about it as often as you like.",
        epilog=f"The server's address is read from {SERVER_VARIABLE} and its API key from {KEY_VARIABLE}, where no "
        "option gives them.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    common, image, answers = _common_options(), _image_options(), _answer_options()

    about = "ask one or more questions about an image"
    one = _add(commands, "ask", ask.run, about, [image, answers, common])
    one.add_argument("questions", metavar="QUESTION", nargs="+")

    about = "ask in a conversation, at a prompt or from a pipe"
    _add(commands, "chat", chat.run, about, [image, answers, common])

    about = "have an image looked at now, and keep its context"
    one = _add(commands, "describe", describe.run, about, [image, common])
    one.add_argument("--heatmap", metavar="FILE", help="write a PNG that shows which parts of the image were kept")

    several = commands.add_parser("contexts", help="list, show and remove the contexts that a server keeps")
    _add_contexts(several.add_subparsers(metavar="COMMAND", required=True), common)

    if not arguments or arguments[0] not in COMMANDS:
        _add_what_takes_long(parser, commands)
    return parser.parse_args(arguments)


def _add(
    commands: _Commands[argparse.ArgumentParser],
    name: str,
    run: Callable[..., int],
    about: str,
    parents: list[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about, parents=parents)
    command.set_defaults(run=run)
    return command


def _add_contexts(commands: _Commands[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    ls = _add(commands, "ls", contexts.ls, "list them, those stored last first", [common])
    ls.add_argument("--limit", metavar="N", type=int, help="how many at most; default: all")
    show = _add(commands, "show", contexts.show, "tell all about one", [common])
    show.add_argument("id", metavar="ID", help="64 hex digits")
    rm = _add(commands, "rm", contexts.rm, "remove some", [common])
    rm.add_argument("ids", metavar="ID", nargs="+", help="64 hex digits")
    _add(commands, "stats", contexts.stats, "tell what they amount to", [common])


def _add_what_takes_long(parser: argparse.ArgumentParser, commands: _Commands[argparse.ArgumentParser]) -> None:
    """What only help, and a command line without a command of ours, has use for."""
    parser.add_argument("--version", action=_Version, nargs=0, help="tell the version and exit")
    for name in sorted(plugins.find()):
        commands.add_parser(name, add_help=False, help=_PLUGIN_HELP.get(name, "options: --help"))


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from .. import __version__

        print(f"lookonce {__version__}")
        parser.exit()


def _common_options() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--server", metavar="URL", help=f"default: {SERVER_VARIABLE}, else {DEFAULT_SERVER}")
    common.add_argument("--api-key", metavar="KEY", help=f"default: {KEY_VARIABLE}, which other users do not see")
    common.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=DEFAULT_TIMEOUT, help="default: %(default)g"
    )
    common.add_argument("--json", action="store_true", help="print one JSON object a line")
    choices = ("auto", "always", "never")
    common.add_argument("--color", choices=choices, default="auto", help="auto: on a terminal, unless NO_COLOR is set")
    return common


def _image_options() -> argparse.ArgumentParser:
    image = argparse.ArgumentParser(add_help=False)
    image.add_argument("image", metavar="IMAGE", help="a path, a data: or http(s): URL, or lookonce:<context id>")
    making = image.add_argument_group("the image's context, within the server's limits")
    making.add_argument("--retention", metavar="SHARE", type=float, help="image tokens to keep, 0.05 for 5%%")
    making.add_argument("--ttl", metavar="SECONDS", type=float, help="how long it is kept after each use")
    making.add_argument("--describe-prompt", metavar="TEXT", help="what the model is asked when it looks")
    return image


def _answer_options() -> argparse.ArgumentParser:
    answers = argparse.ArgumentParser(add_help=False)
    answers.add_argument("--max-tokens", metavar="N", type=int, help="the longest answer, in tokens")
    about = "a new image: answer from all of it (full), or make its context first (compress)"
    answers.add_argument("--on-miss", choices=("full", "compress"), help=about)
    about = "have the whole image looked at where the answer from its context is not sure"
    answers.add_argument("--fallback", action="store_true", default=None, help=about)
    return answers
