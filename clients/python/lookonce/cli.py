"""The `lookonce` command: ask about an image, prepare one, see what is kept, and what other packages add to it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from . import Answer, ContextNotFoundError, Lookonce, LookonceError, __version__, _plugins, _show
from ._client import DEFAULT_SERVER, DEFAULT_TIMEOUT
from ._images import context_id
from ._types import AskOptions

_OWN_COMMANDS = ("ask", "prepare", "contexts")
_PLUGIN_HELP = {
    "serve": "run a server (needs the extra `server`; options: lookonce serve --help)",
    "new-key": "make an API key for a server (needs the extra `server`)",
}
_KEY_VARIABLE = "LOOKONCE_API_KEY"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 it failed, 2 it was called wrongly or is not installed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name and name not in _OWN_COMMANDS and not name.startswith("-") and (plugin := _plugins.find().get(name)):
        return _plugins.run(plugin, arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        api_key = options.api_key or os.environ.get(_KEY_VARIABLE)
        with Lookonce(options.server, api_key=api_key, timeout=options.timeout) as client:
            code = int(options.run(client, options))
        sys.stdout.flush()
        return code
    except (LookonceError, ValueError) as error:
        print(f"lookonce: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output, as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try once more at its end
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookonce",
        description="Look at an image once, ask about it as often as you like.",
        epilog=f"A server's API key is read from the environment variable {_KEY_VARIABLE}.",
    )
    parser.add_argument("--version", action="version", version=f"lookonce {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    common = _common_options()
    image = argparse.ArgumentParser(add_help=False)
    image.add_argument("image", metavar="IMAGE", help="a path, a data: or http(s): URL, or lookonce:<context id>")

    ask = commands.add_parser("ask", parents=[image, common], help="ask one or more questions about an image")
    ask.add_argument("questions", metavar="QUESTION", nargs="+")
    ask.add_argument("--max-tokens", metavar="N", type=int, help="the longest answer, in tokens")
    ask.add_argument("--prepare", action="store_true", help="make the context first, so that every answer is a hit")
    ask.set_defaults(run=_ask)

    prepare = commands.add_parser("prepare", parents=[image, common], help="look at an image and keep its context")
    prepare.set_defaults(run=_prepare)

    contexts = commands.add_parser("contexts", help="list, show and remove the contexts that a server keeps")
    _add_contexts_commands(contexts.add_subparsers(metavar="COMMAND", required=True), common)

    for name in sorted(_plugins.find()):
        commands.add_parser(name, add_help=False, help=_PLUGIN_HELP.get(name, "options: --help"))
    return parser


def _common_options() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--server", metavar="URL", default=DEFAULT_SERVER, help="default: %(default)s")
    common.add_argument("--api-key", metavar="KEY", help=f"default: {_KEY_VARIABLE}, which other users do not see")
    common.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=DEFAULT_TIMEOUT, help="default: %(default)g"
    )
    common.add_argument("--json", action="store_true", help="print one JSON object a line")
    return common


def _add_contexts_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    ls = commands.add_parser("ls", parents=[common], help="list them, those stored last first")
    ls.add_argument("--limit", metavar="N", type=int, help="how many at most; default: all")
    ls.set_defaults(run=_list)

    show = commands.add_parser("show", parents=[common], help="tell all about one")
    show.add_argument("id", metavar="ID", help="64 hex digits")
    show.set_defaults(run=_show_one)

    rm = commands.add_parser("rm", parents=[common], help="remove some")
    rm.add_argument("ids", metavar="ID", nargs="+", help="64 hex digits")
    rm.set_defaults(run=_remove)

    stats = commands.add_parser("stats", parents=[common], help="tell what they amount to")
    stats.set_defaults(run=_stats)


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


def _list(client: Lookonce, options: argparse.Namespace) -> int:
    if not options.json:
        print(_show.header())
    for context in client.list_contexts(limit=options.limit):
        print(json.dumps(asdict(context)) if options.json else _show.row(context, time.time()))
    return 0


def _show_one(client: Lookonce, options: argparse.Namespace) -> int:
    context = client.get_context(options.id)
    print(json.dumps(asdict(context)) if options.json else _show.whole(context, time.time()))
    return 0


def _remove(client: Lookonce, options: argparse.Namespace) -> int:
    """Removes nothing where an id is malformed; 1 where one was not found, the others removed all the same."""
    ids = [context_id(name) for name in options.ids]
    removed = [_remove_one(client, one, as_json=options.json) for one in ids]
    return 0 if all(removed) else 1


def _remove_one(client: Lookonce, one: str, *, as_json: bool) -> bool:
    try:
        client.delete_context(one)
    except ContextNotFoundError:
        removed = False
    else:
        removed = True
    if as_json:
        print(json.dumps({"id": one, "removed": removed}))
    elif removed:
        print(f"removed {one}")
    else:
        print(f"lookonce: there is no context {one}", file=sys.stderr)
    return removed


def _stats(client: Lookonce, options: argparse.Namespace) -> int:
    stats = client.context_stats()
    print(json.dumps(asdict(stats)) if options.json else _show.totals(stats, time.time()))
    return 0
