"""The `lookonce` command: ask about an image, prepare one, and what other packages add to it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

from . import Answer, Lookonce, LookonceError, __version__, _plugins
from ._client import DEFAULT_SERVER, DEFAULT_TIMEOUT
from ._types import AskOptions

_OWN_COMMANDS = ("ask", "prepare")
_PLUGIN_HELP = {"serve": "run a server (needs the extra `server`; options: lookonce serve --help)"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 it failed, 2 it was called wrongly or is not installed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name and name not in _OWN_COMMANDS and not name.startswith("-") and (plugin := _plugins.find().get(name)):
        return _plugins.run(plugin, arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        with Lookonce(options.server, api_key=os.environ.get("LOOKONCE_API_KEY"), timeout=options.timeout) as client:
            return int(options.run(client, options))
    except (LookonceError, ValueError) as error:
        print(f"lookonce: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookonce",
        description="Look at an image once, ask about it as often as you like.",
        epilog="A server's API key is read from the environment variable LOOKONCE_API_KEY.",
    )
    parser.add_argument("--version", action="version", version=f"lookonce {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("image", metavar="IMAGE", help="a path, a data: or http(s): URL, or lookonce:<context id>")
    common.add_argument("--server", metavar="URL", default=DEFAULT_SERVER, help="default: %(default)s")
    common.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=DEFAULT_TIMEOUT, help="default: %(default)g"
    )
    common.add_argument("--json", action="store_true", help="print one JSON object a line")

    ask = commands.add_parser("ask", parents=[common], help="ask one or more questions about an image")
    ask.add_argument("questions", metavar="QUESTION", nargs="+")
    ask.add_argument("--max-tokens", metavar="N", type=int, help="the longest answer, in tokens")
    ask.add_argument("--prepare", action="store_true", help="make the context first, so that every answer is a hit")
    ask.set_defaults(run=_ask)

    prepare = commands.add_parser("prepare", parents=[common], help="look at an image and keep its context")
    prepare.set_defaults(run=_prepare)

    for name in sorted(_plugins.find()):
        commands.add_parser(name, add_help=False, help=_PLUGIN_HELP.get(name, "options: --help"))
    return parser


def _ask(client: Lookonce, options: argparse.Namespace) -> int:
    ask_options: AskOptions = {}
    if options.max_tokens is not None:
        ask_options["max_tokens"] = options.max_tokens
    image = client.image(options.image, prepare=options.prepare)
    for question in options.questions:
        answer = image.ask(question, **ask_options)
        if options.json:
            print(json.dumps({"question": question, **asdict(answer)}), flush=True)
        else:
            print(f"> {question}\n{answer.text}\n{_footer(answer)}\n", flush=True)
    return 0


def _footer(answer: Answer) -> str:
    found = f"hit ({answer.tier})" if answer.hit and answer.tier else "hit" if answer.hit else "miss"
    return (
        f"  {found} · {answer.context_tokens} tokens in context · {answer.tokens_saved} saved · {answer.seconds:.2f} s"
    )


def _prepare(client: Lookonce, options: argparse.Namespace) -> int:
    context = client.create_context(options.image)
    if options.json:
        print(json.dumps(asdict(context)))
        return 0
    print(f"lookonce:{context.id}")
    print(context.description)
    print(
        f"  kept {context.kept_tokens} of {context.image_tokens} image tokens ({context.selection}, "
        f"retention {context.retention:g}) · {context.tokens} tokens in context · {context.bytes} bytes"
    )
    return 0
