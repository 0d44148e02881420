"""Parse the arguments of the `lookonce` command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from .._client import DEFAULT_SERVER, DEFAULT_TIMEOUT
from . import commands, plugins

COMMANDS = ("ask", "chat", "describe", "contexts")
SERVER_VARIABLE, KEY_VARIABLE = "LOOKONCE_SERVER", "LOOKONCE_API_KEY"
_PLUGIN_HELP = {
    "serve": "run a server (needs the extra `server`; options: lookonce serve --help)",
    "check": "see whether a checkpoint can be served, and what its contexts weigh (needs the extra `server`)",
    "new-key": "make an API key for a server (needs the extra `server`)",
    "eval": "measure how much of its accuracy a checkpoint keeps (needs the extra `eval`)",
    "analyze": "see where a checkpoint looks in images (needs the extra `eval`)",
    "calibrate": "find how to describe images for a checkpoint (needs the extra `eval`)",
}
_ASK_USAGE = (
    "%(prog)s [options] IMAGE QUESTION [QUESTION ...]\n"
    "       %(prog)s [options] IMAGE [IMAGE ...] -- QUESTION [QUESTION ...]"
)
AddParser = Callable[..., argparse.ArgumentParser]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; exits for help or an error.

    Args:
        arguments: the words after `lookonce`.

    Returns:
        The options; `run` is the function of the command.
    """
    words, questions = _split_ask(arguments)
    several = questions is not None
    parser = argparse.ArgumentParser(
        prog="lookonce",
        description="Look at an image once, ask about it as often as you like.",
        epilog="Without --server and --api-key, the server's address comes from "
        f"{SERVER_VARIABLE} and the API key from {KEY_VARIABLE}.",
    )
    add_parser: AddParser = parser.add_subparsers(metavar="COMMAND", required=True).add_parser
    common, images, answers = _common_options(), _image_options(several=True), _answer_options()

    help_text = "ask one or more questions about an image, or about several together"
    ask = _add(add_parser, "ask", commands.ask, help_text, [_image_options(several=several), answers, common])
    ask.usage = _ASK_USAGE
    if several:
        ask.set_defaults(questions=questions)
    else:
        ask.add_argument("questions", metavar="QUESTION", nargs="+", help="with several images, after --")
    help_text = "ask in a conversation, at a prompt or from a pipe"
    _add(add_parser, "chat", commands.chat, help_text, [images, answers, common])
    help_text = "make images' contexts now, and show their descriptions"
    describe = _add(add_parser, "describe", commands.describe, help_text, [images, common])
    describe.add_argument("--heatmap", metavar="FILE", help="write a PNG that shows which parts of the image are kept")
    contexts = add_parser("contexts", help="list, show and remove the contexts that a server keeps")
    _add_contexts(contexts.add_subparsers(metavar="COMMAND", required=True).add_parser, common)

    if not arguments or arguments[0] not in COMMANDS:  # only then: finding plugins takes as long as all the rest
        parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
        for name in sorted(plugins.find()):
            add_parser(name, add_help=False, help=_PLUGIN_HELP.get(name, "options: --help"))
    args = parser.parse_args(words)
    if questions == []:
        ask.error("no QUESTION after --")
    return args


def _split_ask(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str] | None]:
    """Split off the questions that stand after `--`; None if there is no `--`.

    Without it the first word is the image and the rest are questions: nobody can tell a second image from a question.
    """
    if arguments[:1] != ["ask"] or "--" not in arguments:
        return arguments, None
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _add(
    add_parser: AddParser,
    name: str,
    run: Callable[..., int],
    help_text: str,
    parents: list[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    command = add_parser(name, help=help_text, description=help_text, parents=parents)
    command.set_defaults(run=run)
    return command


def _add_contexts(add_parser: AddParser, common: argparse.ArgumentParser) -> None:
    ls = _add(add_parser, "ls", commands.list_contexts, "list contexts, the newest first", [common])
    ls.add_argument("--limit", metavar="N", type=int, help="the largest number of contexts; default: all")
    show = _add(add_parser, "show", commands.show_context, "show one context in full", [common])
    show.add_argument("id", metavar="ID", help="the id, or as much of its beginning as no other has")
    rm = _add(add_parser, "rm", commands.remove_contexts, "remove contexts", [common])
    rm.add_argument("ids", metavar="ID", nargs="+", help="ids, or as much of each as no other begins with")
    _add(add_parser, "stats", commands.show_stats, "show the number and size of contexts, and the hit rate", [common])


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


def _image_options(*, several: bool) -> argparse.ArgumentParser:
    image = argparse.ArgumentParser(add_help=False)
    help_text = "of an image or a video: a path, a data: or http(s): URL, or lookonce:<context id>"
    image.add_argument("images", metavar="IMAGE", nargs="+" if several else 1, help=help_text)
    context = image.add_argument_group("the images' contexts, within the server's limits")
    context.add_argument("--retention", metavar="SHARE", type=float, help="share of image tokens to keep, 0.05 for 5%%")
    context.add_argument("--ttl", metavar="SECONDS", type=float, help="how long it is kept after each use")
    context.add_argument("--describe-prompt", metavar="TEXT", help="prompt for the description of the image")
    video = image.add_argument_group("a video, or an animation")
    video.add_argument("--fps", metavar="N", type=float, help="how many frames a second the model sees")
    video.add_argument("--max-frames", metavar="N", type=int, help="how many frames it sees at most")
    return image


def _answer_options() -> argparse.ArgumentParser:
    answers = argparse.ArgumentParser(add_help=False)
    answers.add_argument("--max-tokens", metavar="N", type=int, help="the longest answer, in tokens")
    help_text = (
        "auto: a new image is answered from all of it, and described behind; describe_first; full_image: no contexts"
    )
    answers.add_argument("--mode", choices=("auto", "describe_first", "full_image"), help=help_text)
    answers.add_argument("--on-miss", choices=("full", "compress"), help=argparse.SUPPRESS)  # an older name
    help_text = "answer from the whole image if the answer from its context is uncertain"
    answers.add_argument("--fallback", action="store_true", default=None, help=help_text)
    return answers
