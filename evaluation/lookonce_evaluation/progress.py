"""Progress bars with the time left, for people who watch."""

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

import transformers
from tqdm import tqdm

T = TypeVar("T")
_FORMAT = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt} of {total_fmt}, {elapsed} so far, {remaining} left"


def bar(items: Iterable[T], *, total: int, done: int = 0, label: str) -> Iterable[T]:
    """Yield items, with a bar on standard error if a person watches.

    Args:
        items: what is left to do.
        total: of all items, with those done.
        done: how many were done before, which cost no time now.
        label: what is done.
    """
    shown: Iterable[T] = tqdm(
        items, desc=label, total=total, initial=done, disable=not is_watched(), bar_format=_FORMAT
    )
    return shown


def is_watched() -> bool:
    """Whether bars are for anyone: standard error is a terminal, and LOOKONCE_LOG_FORMAT does not say json."""
    return sys.stderr.isatty() and os.environ.get("LOOKONCE_LOG_FORMAT", "").lower() != "json"


def set_library_bars() -> None:
    """Turn off the bars of model libraries unless a person watches."""
    if not is_watched():
        transformers.utils.logging.disable_progress_bar()
