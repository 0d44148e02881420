"""End the processes that vLLM starts together with the one that starts them.

vLLM's own end them when it is shut down, and not when it is killed. They are bound as soon as they run: those that are
forked by a hook, those that are spawned by an object in vLLM's configuration, which the new process reads first.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import get_spawning_popen
from typing import Any

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>; vLLM runs on Linux


class Binding:
    """Bind the process that it is pickled to, if that is being spawned."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[int, ...]]:
        return (_bound, (os.getpid(),)) if get_spawning_popen() is not None else (Binding, ())

    def __repr__(self) -> str:
        return "Binding()"  # the same at each start, for whoever compares configurations


class _Forks:
    """The state of the hook of `os.fork`, which cannot be taken off again."""

    hooked = False
    bind = False
    parent = 0

    @classmethod
    def before(cls) -> None:
        cls.parent = os.getpid()

    @classmethod
    def after_in_child(cls) -> None:
        if cls.bind:
            bind_to(cls.parent)


@contextmanager
def bind_forks() -> Iterator[None]:
    """Bind the processes that are forked inside the block, and their forks."""
    if not _Forks.hooked:
        os.register_at_fork(before=_Forks.before, after_in_child=_Forks.after_in_child)
        _Forks.hooked = True
    _Forks.bind = True
    try:
        yield
    finally:
        _Forks.bind = False


def bind_to(parent: int) -> None:
    """Have the kernel kill this process when its parent ends.

    A terminal's Ctrl-C is left to the parent.

    More exactly when the parent's thread ends that started this process: one that lives as long as the engine.

    Args:
        parent: its process id.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)
    os.setpgid(0, 0)


def _bound(parent: int) -> Binding:
    bind_to(parent)
    return Binding()
