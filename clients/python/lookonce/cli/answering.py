"""What `ask` and `chat` have in common: the options of an image and its questions, and how answers are shown."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any, cast

from .._client import Client
from .._saved import Saved
from .._session import ImageSession
from .._stream import AnswerStream
from .._types import Answer, AskOptions, ContextOptions, ImageOptions
from . import show
from .terminal import Terminal


def image_of(client: Client, options: argparse.Namespace) -> ImageSession:
    """The image of a command line."""
    return client.image(options.image, **cast(ImageOptions, _given(options, *ContextOptions.__annotations__)))


def ask_options(options: argparse.Namespace) -> AskOptions:
    """The options of a command line's questions."""
    return cast(AskOptions, _given(options, "max_tokens", "on_miss", "fallback"))


def print_json(values: dict[str, Any]) -> None:
    """One line of JSON."""
    print(json.dumps(values), flush=True)


def print_answer(question: str, answer: Answer) -> None:
    """One line of JSON, of a question and its answer."""
    print_json({"question": question, "hit": answer.hit, **asdict(answer)})


def print_saved(saved: Saved) -> None:
    """One line of JSON, of what was saved."""
    print_json({"saved": {**asdict(saved), "share": saved.share}})


def show_live(terminal: Terminal, stream: AnswerStream) -> None:
    """An answer as it comes, and its facts."""
    with stream:
        terminal.show(stream, lambda: "asking")
        terminal.say(terminal.dim(f"  {show.facts(stream.answer)}"))


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}
