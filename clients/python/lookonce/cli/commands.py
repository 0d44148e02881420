"""Run `ask`, `chat`, `describe` and `contexts`."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from .._client import Client
from .._exceptions import BadRequestError, ContextNotFoundError, ImageSourceError, LookonceError
from .._reference import CONTEXT_SCHEME, is_video, load, parse_context_id
from .._session import Chat, ImageSession, ImagesSession
from .._streaming import AnswerStream, DescriptionStream
from .._types import Answer, AskOptions, ContextOptions, ImageOptions, Saved
from . import formatting
from .terminal import Terminal, one_line, printable

_ID_START = re.compile(r"[0-9a-f]{4,63}")  # of a context's id
_CHAT_HINT = "Ctrl-C stops an answer, /new forgets the conversation, Ctrl-D ends."


def ask(client: Client, args: argparse.Namespace, terminal: Terminal) -> int:
    """Ask questions one after the other, each on its own."""
    for question in args.questions:
        if os.path.isfile(question):
            raise ValueError(f"the question {question!r} is a file; if it is an image, put -- before the questions")
    images, options = _images(client, args), _ask_options(args)
    for question in args.questions:
        if args.json:
            _print_answer_json(question, images.ask(question, **options))
            continue
        terminal.print(terminal.bold(f"> {printable(question)}"))
        if terminal.is_tty:
            _stream_answer(terminal, images.stream(question, **options))
        else:
            answer = images.ask(question, **options)
            terminal.print(f"{printable(answer.text)}\n{terminal.dim(f'  {formatting.answer_line(answer)}')}")
        terminal.print()
    if args.json:
        _print_saved_json(images.saved)
    elif len(args.questions) > 1:
        terminal.print(formatting.saved_line(images.saved))
    return 0


def chat(client: Client, args: argparse.Namespace, terminal: Terminal) -> int:
    """Converse about images: at a prompt, or with one answer a line in a pipe."""
    images = _images(client, args)
    conversation = images.chat(**_ask_options(args))
    if sys.stdin.isatty() and terminal.is_tty and not args.json:
        _converse(conversation, terminal)
        if images.saved.questions:
            terminal.print(formatting.saved_line(images.saved))
        return 0
    for line in sys.stdin:
        if question := line.strip():
            answer = conversation.ask(question)
            if args.json:
                _print_answer_json(question, answer)
            else:
                terminal.print(one_line(answer.text))
    if args.json:
        _print_saved_json(images.saved)
    return 0


def describe(client: Client, args: argparse.Namespace, terminal: Terminal) -> int:
    """Have images described and their contexts stored, one after the other."""
    images = _images(client, args).images
    if args.heatmap is not None and len(images) > 1:
        raise ValueError(f"--heatmap is of one image; there are {len(images)}")
    for image in images:
        _describe(image, args, terminal)
        if args.heatmap is not None:
            _write_file(Path(args.heatmap), _heatmap(image, terminal))
    return 0


def list_contexts(client: Client, args: argparse.Namespace, terminal: Terminal) -> int:
    """List contexts."""
    if not args.json:
        terminal.print(terminal.bold(formatting.context_header()))
    for context in client.list_contexts(limit=args.limit):
        if args.json:
            _print_json(asdict(context))
        else:
            terminal.print(formatting.context_row(context, time.time()))
    return 0


def show_context(client: Client, args: argparse.Namespace, terminal: Terminal) -> int:
    """Show one context in full."""
    context = client.get_context(_context_id(client, args.id))
    if args.json:
        _print_json(asdict(context))
    else:
        terminal.print(formatting.context_details(context, time.time()))
    return 0


def remove_contexts(client: Client, args: argparse.Namespace, terminal: Terminal) -> int:
    """Remove contexts: none if an id is malformed or ambiguous; returns 1 if one was not found."""
    ids = [_context_id(client, name) for name in args.ids]
    removed = [_remove_context(client, context_id, args, terminal) for context_id in ids]
    return 0 if all(removed) else 1


def _context_id(client: Client, name: str) -> str:
    """Return the whole id that begins as a name says.

    Raises:
        ImageSourceError: it is no beginning of an id, or of none, or of several.
    """
    start = name.removeprefix(CONTEXT_SCHEME)
    if not _ID_START.fullmatch(start):
        return parse_context_id(name)  # a whole one, or an error
    ids = [context.id for context in client.list_contexts() if context.id.startswith(start)]
    if len(ids) == 1:
        return ids[0]
    if not ids:
        raise ImageSourceError(f"no context's id begins with {start!r}")
    shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
    raise ImageSourceError(f"{len(ids)} contexts' ids begin with {start!r}: {shown}; give more of it")


def show_stats(client: Client, args: argparse.Namespace, terminal: Terminal) -> int:
    """Show the statistics of the contexts."""
    stats = client.context_stats()
    if args.json:
        _print_json(asdict(stats))
    else:
        terminal.print(formatting.stats_details(stats, time.time()))
    return 0


def _images(client: Client, args: argparse.Namespace) -> ImagesSession:
    options = cast(ImageOptions, _given(args, *ContextOptions.__annotations__))
    sampling = _given(args, "fps", "max_frames")
    sources = []
    for media in map(load, args.images):
        session = client.video(media, **sampling, **options) if is_video(media) else client.image(media, **options)
        sources.append(session)
    return client.images(*sources, **options)


def _describe(image: ImageSession, args: argparse.Namespace, terminal: Terminal) -> None:
    with image.describe() as description:
        if args.json:
            for _ in description:
                pass
            _print_json({**asdict(description.context), "created": description.created})
        else:
            terminal.stream(description, lambda: _progress(description))
            line = formatting.context_line(description.context, created=description.created)
            terminal.print(terminal.dim(f"  {line}"))
            terminal.print(f"lookonce:{description.context.id}")


def _ask_options(args: argparse.Namespace) -> AskOptions:
    return cast(AskOptions, _given(args, "max_tokens", "mode", "on_miss", "fallback"))


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _converse(conversation: Chat, terminal: Terminal) -> None:
    with suppress(ImportError):
        import readline  # noqa: F401 - `input` edits lines with it
    terminal.print(terminal.dim(_CHAT_HINT))
    while True:
        try:
            question = input(terminal.prompt("> ")).strip()
        except EOFError:
            terminal.print()
            return
        except KeyboardInterrupt:
            terminal.print()
            continue
        if question == "/new":
            conversation.turns.clear()
        elif question:
            _answer_in_conversation(conversation, terminal, question)


def _answer_in_conversation(conversation: Chat, terminal: Terminal, question: str) -> None:
    """Answer a question; an error or Ctrl-C ends the answer and not the conversation."""
    try:
        _stream_answer(terminal, conversation.stream(question))
    except KeyboardInterrupt:
        terminal.print(terminal.dim("  stopped"))
    except LookonceError as error:
        terminal.print_error(str(error))


def _stream_answer(terminal: Terminal, stream: AnswerStream) -> None:
    with stream:
        terminal.stream(stream, lambda: "asking")
        terminal.print(terminal.dim(f"  {formatting.answer_line(stream.answer)}"))


def _progress(description: DescriptionStream) -> str:
    """Return the progress of a description before its first text."""
    return description.state if description.state != "completed" else "describing"


def _heatmap(image: ImageSession, terminal: Terminal) -> bytes:
    """Draw over the image, unless the server cannot place the model's tokens in it."""
    try:
        return image.heatmap()
    except BadRequestError as error:
        terminal.print_error(f"the heat map is drawn without the image: {error}")
        return image.heatmap(over_image=False)


def _write_file(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise LookonceError(f"cannot write {str(path)!r}: {error.strerror}") from error


def _remove_context(client: Client, context_id: str, args: argparse.Namespace, terminal: Terminal) -> bool:
    try:
        client.delete_context(context_id)
    except ContextNotFoundError:
        is_removed = False
    else:
        is_removed = True
    if args.json:
        _print_json({"id": context_id, "removed": is_removed})
    elif is_removed:
        terminal.print(f"removed {context_id}")
    else:
        terminal.print_error(f"there is no context {context_id}")
    return is_removed


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


def _print_answer_json(question: str, answer: Answer) -> None:
    _print_json({"question": question, "hit": answer.hit, **asdict(answer)})


def _print_saved_json(saved: Saved) -> None:
    _print_json({"saved": {**asdict(saved), "share": saved.share}})
