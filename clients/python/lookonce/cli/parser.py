"""Parse the arguments of the `lookonce` command."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .._client import DEFAULT_SERVER, DEFAULT_TIMEOUT
from . import commands, plugins

COMMANDS = ("ask", "chat", "describe", "contexts")
SERVER_VARIABLE, KEY_VARIABLE = "LOOKONCE_SERVER", "LOOKONCE_API_KEY"
PLUGIN_HELP = {
    "serve": "run a server (extra: server)",
    "check": "tell whether a checkpoint can be served (extra: server)",
    "new-key": "make an API key for a server (extra: server)",
    "eval": "measure what contexts keep of the accuracy (extra: eval)",
    "analyze": "see where a model looks in images (extra: eval)",
    "calibrate": "find the best settings for a checkpoint (extra: eval)",
}
_ASK_USAGE = (
    "%(prog)s [options] IMAGE QUESTION [QUESTION ...]\n"
    "       %(prog)s [options] IMAGE [IMAGE ...] -- QUESTION [QUESTION ...]"
)
AddParser = Callable[..., argparse.ArgumentParser]


class CommandParser(NamedTuple):
    """The parser of the command line, what adds a command to it, and the parser of `ask`."""

    parser: argparse.ArgumentParser
    add_parser: AddParser
    ask: argparse.ArgumentParser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; exits for help or an error.

    Args:
        arguments: the words after `lookonce`.

    Returns:
        The options; `run` is the function of the command.
    """
    words, questions = _split_ask(arguments)
    parser, add_parser, ask = build_parser(None if questions is None else list(questions))
    if not arguments or arguments[0] not in COMMANDS:  # only then: finding plugins takes as long as all the rest
        parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
        add_parser("completion", add_help=False, help="print the completion script for a shell (extra: completion)")
        for name in sorted(plugins.find()):
            add_parser(name, add_help=False, help=PLUGIN_HELP.get(name, "options: --help"))
    args = parser.parse_args(words)
    if questions is not None and not questions:
        ask.error("no QUESTION after --")
    return args


def build_parser(questions: list[str] | None = None) -> CommandParser:
    """Build the parser of this package's own commands.

    Args:
        questions: those after `--`, if there was one.
    """
    parser = argparse.ArgumentParser(
        prog="lookonce",
        description="Look at an image once, ask about it as often as you like.",
        epilog=f"Without --server, the server's address is that of {SERVER_VARIABLE}; without --api-key, the key is"
        f" that of {KEY_VARIABLE}. Each command has its --help. An extra is installed as lookonce[server].",
    )
    add_parser: AddParser = parser.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    common, images, answers = _common_options(), _image_options("+"), _answer_options()

    help_text = "ask one or more questions about an image, or about several together"
    own = images if questions is not None else _image_options(1)
    ask = _add(add_parser, "ask", commands.ask, help_text, [own, answers, common])
    ask.usage = _ASK_USAGE
    if questions is None:
        ask.add_argument("questions", metavar="QUESTION", nargs="+", help="with several images, after --")
    else:
        ask.set_defaults(questions=questions)
    help_text = "ask in a conversation, at a prompt or from a pipe"
    chat = _add(add_parser, "chat", commands.chat, help_text, [_image_options("*"), answers, common])
    chat.epilog = "At the prompt, /help lists its commands: /image adds an image, /new begins again."
    help_text = "make images' contexts now, and show their descriptions"
    describe = _add(add_parser, "describe", commands.describe, help_text, [images, common])
    help_text = "write a PNG that shows which parts of the image are kept"
    _complete_files(describe.add_argument("--heatmap", metavar="FILE", help=help_text))
    contexts = add_parser("contexts", help="list, show and remove the contexts that a server keeps")
    _add_contexts(contexts.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser, common)
    return CommandParser(parser, add_parser, ask)


def _complete_files(action: argparse.Action) -> None:
    """Have shells complete an argument with files: shtab looks for this attribute."""
    action.complete = "file"  # type: ignore[attr-defined]


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
    sentence = f"{help_text[0].upper()}{help_text[1:]}."
    command = add_parser(name, help=help_text, description=sentence, parents=parents)
    command.set_defaults(run=run)
    return command


def _add_contexts(add_parser: AddParser, common: argparse.ArgumentParser) -> None:
    ls = _add(add_parser, "ls", commands.list_contexts, "list contexts, the newest first", [common])
    ls.add_argument("--limit", metavar="N", type=int, help="the largest number of contexts; default: all")
    show = _add(add_parser, "show", commands.show_context, "show one context in full", [common])
    show.add_argument("id", metavar="ID", help="its id, or a beginning that no other id has")
    rm = _add(add_parser, "rm", commands.remove_contexts, "remove contexts", [common])
    rm.add_argument("ids", metavar="ID", nargs="+", help="their ids, or beginnings that no other ids have")
    _add(add_parser, "stats", commands.show_stats, "show the number and size of contexts, and the hit rate", [common])


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from .. import __version__

        print(f"lookonce {__version__}")
        parser.exit()


def _common_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    common = parser.add_argument_group("the server, and the output")
    common.add_argument(
        "--server", metavar="URL", help=f"its address; default: {SERVER_VARIABLE}, else {DEFAULT_SERVER}"
    )
    common.add_argument("--api-key", metavar="KEY", help=f"default: {KEY_VARIABLE}, which other users do not see")
    help_text = "how long to wait for the server's next bytes; default: %(default)g"
    common.add_argument("--timeout", metavar="SECONDS", type=_positive, default=DEFAULT_TIMEOUT, help=help_text)
    common.add_argument("--json", action="store_true", help="print one JSON object a line")
    choices = ("auto", "always", "never")
    common.add_argument("--color", choices=choices, default="auto", help="auto: on a terminal, unless NO_COLOR is set")
    return parser


def _image_options(number: int | str) -> argparse.ArgumentParser:
    image = argparse.ArgumentParser(add_help=False)
    help_text = "an image or a video: a path, a data: or http(s): URL, or lookonce:<context id>"
    _complete_files(image.add_argument("images", metavar="IMAGE", nargs=number, help=help_text))
    context = image.add_argument_group("the images' contexts, within the server's limits")
    context.add_argument(
        "--retention", metavar="SHARE", type=_number, help="share of image tokens to keep, 0.05 for 5%%"
    )
    context.add_argument("--ttl", metavar="SECONDS", type=_number, help="how long each is kept after its last use")
    context.add_argument("--describe-prompt", metavar="TEXT", help="prompt for the description of the image")
    video = image.add_argument_group("a video, or an animation")
    video.add_argument("--fps", metavar="N", type=_number, help="how many frames a second the model sees")
    video.add_argument("--max-frames", metavar="N", type=int, help="how many frames the model sees at most")
    return image


def _answer_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    answers = parser.add_argument_group("answers")
    answers.add_argument("--max-tokens", metavar="N", type=int, help="the longest answer, in tokens")
    help_text = (
        "auto: answer about a new image from all of it, and describe it meanwhile; describe_first: describe it, then"
        " answer; full_image: no contexts; default: the server's mode"
    )
    answers.add_argument("--mode", choices=("auto", "describe_first", "full_image"), help=help_text)
    answers.add_argument("--on-miss", choices=("full", "compress"), help=argparse.SUPPRESS)  # an older name
    help_text = "answer from the whole image if the answer from its context is uncertain"
    answers.add_argument("--fallback", action="store_true", default=None, help=help_text)
    return parser


def _number(text: str) -> float:
    """Parse a finite number; which ones are accepted is the server's to say."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return value
