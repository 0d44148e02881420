"""What stores tell about their work, for metrics."""

import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from lookonce_cache.errors import (
    BlobTooLargeError,
    ContextTooLargeError,
    LeaseLostError,
    StoreUnavailableError,
    WritesRefusedError,
)

Outcome = Literal["ok", "miss", "refused", "error"]

P = ParamSpec("P")
R = TypeVar("R")


class StoreObserver:
    """Is told what stores do; this one ignores it all. Methods run in the event loop, so they must be quick."""

    def operation(self, store: str, operation: str, outcome: Outcome, seconds: float) -> None:
        """One call of a `Store` method, or of one of its `BlobStore`, has ended.

        Args:
            store: the store's tier.
            operation: the method's name.
            outcome: "ok"; "miss" where there was nothing; "refused" where the store cannot take a value, takes no
                writes for now, or a lease did not hold; "error" where the store could not be reached.
            seconds: how long it took, encoding and decoding included.
        """

    def transferred(self, store: str, direction: Literal["read", "written"], nbytes: int) -> None:
        """A context of so many bytes came from a store, or went to it."""

    def holds(self, store: str, nbytes: int) -> None:
        """A store in this process's memory now holds so many bytes of tensors."""

    def damaged(self, store: str, reason: str) -> None:
        """A value was met that is no context, or not the one asked for; see `ContextFormatError.reason`.

        A damaged record has the reason "record"; what is no lease under a lease's name "lease"; what is no context's
        name in the index, or no index under its name, "index".
        """

    def writes(self, store: str, refusal: str | None) -> None:
        """A write was taken, or refused though the store answers; then why, see `WritesRefusedError.reason`."""

    def breaker(self, store: str, node: str, is_open: bool) -> None:
        """A node of the store was given up for a while, or is used again."""


class Observed(Protocol):
    """What `observed` needs of a store."""

    tier: str
    observer: StoreObserver


S = TypeVar("S", bound=Observed)


def observed(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """A store's method that reports each call to the store's observer, under the method's own name."""
    name = method.__name__

    @functools.wraps(method)
    async def reporting(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        begun = time.perf_counter()

        def report(outcome: Outcome) -> None:
            self.observer.operation(self.tier, name, outcome, time.perf_counter() - begun)

        try:
            result = await method(self, *args, **kwargs)
        except (ContextTooLargeError, LeaseLostError, BlobTooLargeError):
            report("refused")
            raise
        except WritesRefusedError as error:
            report("refused")
            self.observer.writes(self.tier, error.reason)
            raise
        except StoreUnavailableError:
            report("error")
            raise
        found_nothing = result is False or (result is None and name in _MAY_FIND_NOTHING)
        report("miss" if found_nothing else "ok")
        if name in _WRITES:
            self.observer.writes(self.tier, None)
        return result

    return reporting


_WRITES = {"put", "lease", "write"}  # which never go without one
_MAY_FIND_NOTHING = {"get", "peek", "info", "lease", "read"}
