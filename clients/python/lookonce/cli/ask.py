"""`lookonce ask`."""

from __future__ import annotations

import argparse

from .._client import Client
from . import show
from .answering import ask_options, image_of, print_answer, print_saved, show_live
from .terminal import Terminal, printable


def run(client: Client, options: argparse.Namespace, terminal: Terminal) -> int:
    """Ask the questions one after the other, each on its own."""
    image, asked = image_of(client, options), ask_options(options)
    for question in options.questions:
        if options.json:
            print_answer(question, image.ask(question, **asked))
            continue
        terminal.say(terminal.bold(f"> {printable(question)}"))
        if terminal.is_watched:
            show_live(terminal, image.stream(question, **asked))
        else:
            answer = image.ask(question, **asked)
            terminal.say(f"{printable(answer.text)}\n{terminal.dim(f'  {show.facts(answer)}')}")
        terminal.say()
    if options.json:
        print_saved(image.saved)
    elif len(options.questions) > 1:
        terminal.say(show.saved(image.saved))
    return 0
