"""Run `ask`, `chat`, `describe` and `contexts`."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

from .._client import Client
from .._exceptions import BadRequestError, ContextNotFoundError, ImageSourceError, LookonceError
from .._reference import CONTEXT_SCHEME, is_video, load, parse_context_id
from .._session import ImageSession, ImagesSession
from .._streaming import DescriptionStream
from .._types import Answer, AskOptions, ContextOptions, ImageOptions, Saved
from . import formatting
from .conversation import Conversation, stream_answer
from .terminal import Terminal, one_line, printable

_ID_START = re.compile(r"[0-9a-f]{4,63}")  # of a context's id


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
            stream_answer(terminal, images.stream(question, **options))
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
        Conversation(conversation, partial(_image, client, args), terminal).run()
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
    width = shutil.get_terminal_size().columns
    for context in client.list_contexts(limit=args.limit):
        if args.json:
            _print_json(asdict(context))
        else:
            terminal.print(formatting.context_row(context, time.time(), width))
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
    sessions = [_image(client, args, source) for source in args.images]
    return client.images(*sessions, **_image_options(args))


def _image(client: Client, args: argparse.Namespace, source: str) -> ImageSession:
    """Open an image, or a video."""
    media = load(source)
    if is_video(media):
        return client.video(media, **_given(args, "fps", "max_frames"), **_image_options(args))
    return client.image(media, **_image_options(args))


def _image_options(args: argparse.Namespace) -> ImageOptions:
    return cast(ImageOptions, _given(args, *ContextOptions.__annotations__))


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
