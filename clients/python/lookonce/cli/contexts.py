"""`lookonce contexts`: what a server keeps."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

from .._client import Client
from .._exceptions import ContextNotFoundError
from .._images import context_id
from . import show as shown
from .answering import print_json
from .terminal import Terminal


def ls(client: Client, options: argparse.Namespace, terminal: Terminal) -> int:
    """List contexts."""
    if not options.json:
        terminal.say(terminal.bold(shown.header()))
    for context in client.list_contexts(limit=options.limit):
        if options.json:
            print_json(asdict(context))
        else:
            terminal.say(shown.row(context, time.time()))
    return 0


def show(client: Client, options: argparse.Namespace, terminal: Terminal) -> int:
    """Tell all about one context."""
    context = client.get_context(options.id)
    if options.json:
        print_json(asdict(context))
    else:
        terminal.say(shown.whole(context, time.time()))
    return 0


def rm(client: Client, options: argparse.Namespace, terminal: Terminal) -> int:
    """Removes nothing where an id is malformed; 1 where one was not found, the others removed all the same."""
    ids = [context_id(name) for name in options.ids]
    removed = [_remove(client, one, options, terminal) for one in ids]
    return 0 if all(removed) else 1


def stats(client: Client, options: argparse.Namespace, terminal: Terminal) -> int:
    """Tell what the contexts amount to."""
    found = client.context_stats()
    if options.json:
        print_json(asdict(found))
    else:
        terminal.say(shown.totals(found, time.time()))
    return 0


def _remove(client: Client, one: str, options: argparse.Namespace, terminal: Terminal) -> bool:
    try:
        client.delete_context(one)
    except ContextNotFoundError:
        removed = False
    else:
        removed = True
    if options.json:
        print_json({"id": one, "removed": removed})
    elif removed:
        terminal.say(f"removed {one}")
    else:
        terminal.complain(f"there is no context {one}")
    return removed
