"""`lookonce chat`: at a terminal a prompt, in a pipe one answer a line."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress

from .._chat import Chat
from .._client import Client
from .._exceptions import LookonceError
from . import show
from .answering import ask_options, image_of, print_answer, print_saved, show_live
from .terminal import Terminal, plain

_HINT = "Ctrl-C stops an answer, /new forgets the conversation, Ctrl-D ends."


def run(client: Client, options: argparse.Namespace, terminal: Terminal) -> int:
    """Converse about an image until there are no more questions."""
    image = image_of(client, options)
    chat = image.chat(**ask_options(options))
    if sys.stdin.isatty() and terminal.is_watched and not options.json:
        _converse(chat, terminal)
        if image.saved.questions:
            terminal.say(show.saved(image.saved))
    else:
        _answer_lines(chat, terminal, as_json=options.json)
        if options.json:
            print_saved(image.saved)
    return 0


def _answer_lines(chat: Chat, terminal: Terminal, *, as_json: bool) -> None:
    """The answers alone, in order; the first error ends it."""
    for line in sys.stdin:
        if not (question := line.strip()):
            continue
        answer = chat.ask(question)
        if as_json:
            print_answer(question, answer)
        else:
            terminal.say(plain(answer.text))


def _converse(chat: Chat, terminal: Terminal) -> None:
    with suppress(ImportError):
        import readline  # noqa: F401 - `input` edits lines with it
    terminal.say(terminal.dim(_HINT))
    while True:
        try:
            question = input(terminal.prompt("> ")).strip()
        except EOFError:
            terminal.say()
            return
        except KeyboardInterrupt:
            terminal.say()
            continue
        if question == "/new":
            chat.turns.clear()
        elif question:
            _answer(chat, terminal, question)


def _answer(chat: Chat, terminal: Terminal, question: str) -> None:
    """An error ends the answer, not the conversation."""
    try:
        show_live(terminal, chat.stream(question))
    except KeyboardInterrupt:
        terminal.say(terminal.dim("  stopped"))
    except LookonceError as error:
        terminal.complain(str(error))
