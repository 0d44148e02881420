"""Converse about images at a prompt: questions, and the commands that begin with `/`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress

from .._exceptions import LookonceError
from .._session import Chat, ImageSession
from .._streaming import AnswerStream
from . import formatting
from .terminal import Terminal

_HINT = "Ctrl-C stops an answer, Ctrl-D ends, /help lists what else there is."
_HELP = """\
/image IMAGE  add an image or a video: a path, a URL, or lookonce:<context id>
/new          forget the questions, the answers, and the images added
/help         show this
/quit         end, as Ctrl-D does
Ctrl-C        stop an answer, or drop the line"""
_COMMAND = re.compile(r"(/[a-z?]*)(?:\s+(.*))?", re.IGNORECASE)  # and "/usr/bin?" is a question


class Conversation:
    """Read questions and commands at a prompt, and write answers.

    Args:
        chat: the conversation with the server.
        open_image: reads an image or a video that is added.
        terminal: to write to.
    """

    def __init__(self, chat: Chat, open_image: Callable[[str], ImageSession], terminal: Terminal) -> None:
        self._chat = chat
        self._open_image = open_image
        self._terminal = terminal
        self._added: list[ImageSession] = []  # to go with the next question
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._add_image,
            "/new": self._forget,
            "/help": self._print_help,
            "/quit": self._quit,
        }

    def run(self) -> None:
        """Converse until Ctrl-D or `/quit`; an error or Ctrl-C ends an answer and not the conversation."""
        with suppress(ImportError):
            import readline  # noqa: F401 - `input` edits lines with it
        self._terminal.print(self._terminal.dim(_HINT))
        while True:
            try:
                line = input(self._terminal.prompt("> ")).strip()
                if line:
                    self._follow(line)
            except EOFError:
                self._terminal.print()
                return
            except KeyboardInterrupt:
                self._terminal.print()
            except _Quit:
                return
            except LookonceError as error:
                self._terminal.print_error(str(error))

    def _follow(self, line: str) -> None:
        """Answer a question, or carry out a command."""
        words = _COMMAND.fullmatch(line)
        if words is None:
            self._answer(line)
        elif command := self._commands.get(words[1].lower()):
            command(words[2] or "")
        else:
            self._terminal.print_error(f"no command {words[1]!r}; there are {', '.join(self._commands)}")

    def _answer(self, question: str) -> None:
        try:
            stream_answer(self._terminal, self._chat.stream(question, *self._added))
        except KeyboardInterrupt:
            self._terminal.print(self._terminal.dim("  stopped"))
        else:
            self._added.clear()  # they are in the turns now

    def _add_image(self, source: str) -> None:
        if not source:
            self._terminal.print_error("/image needs a path, a URL, or lookonce:<context id>")
            return
        self._added.append(self._open_image(os.path.expanduser(_unquoted(source))))
        self._terminal.print(self._terminal.dim("  added; it goes with the next question"))

    def _forget(self, _: str) -> None:
        self._chat.turns.clear()
        self._added.clear()

    def _print_help(self, _: str) -> None:
        self._terminal.print(_HELP)

    def _quit(self, _: str) -> None:
        raise _Quit


def stream_answer(terminal: Terminal, stream: AnswerStream) -> None:
    """Write an answer as it comes, and then its cost."""
    with stream:
        terminal.stream(stream, lambda: "asking")
        terminal.print(terminal.dim(f"  {formatting.answer_line(stream.answer)}"))


class _Quit(Exception):  # noqa: N818 - no error
    """The conversation is over."""


def _unquoted(source: str) -> str:
    """Take away the quotes that terminals put around the path of a file that is dropped on them."""
    is_quoted = len(source) > 1 and source[0] == source[-1] and source[0] in "'\""
    return source[1:-1] if is_quoted else source
