"""Keep errors from vLLM, which would end with every request in work.

Whatever vLLM calls of ours is `guarded`: an error in it is logged, and a fallback's value is returned in place of the
method's. A fallback must fail the requests concerned: none may be answered from blocks that were not written.
"""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger(__name__)
_logged: set[tuple[str, type[BaseException]]] = set()  # whose traceback the log has already


def guarded(fallback: Callable[..., R]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a method that vLLM calls.

    Args:
        fallback: is called with the object, the error and the method's other arguments, and must not raise.
    """

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return method(*args, **kwargs)
            except Exception as error:
                log_failure(method.__qualname__, error)
                owner, *rest = args
                return fallback(owner, error, *rest, **kwargs)

        call.guarded = True  # type: ignore[attr-defined]
        return call

    return decorate


def log_failure(name: str, error: Exception) -> None:
    """Log an error that is kept from vLLM, the first time with its traceback."""
    kind = (name, type(error))
    _log.warning("%s failed: %s", name, reason(error), exc_info=None if kind in _logged else error)
    _logged.add(kind)


def reason(error: Exception) -> str:
    """Describe any error in a few words."""
    return str(error) or type(error).__name__
