"""Report the calls of stores, for metrics."""

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
Eviction = Literal["room", "expired"]

P = ParamSpec("P")
R = TypeVar("R")


class StoreObserver:
    """Receive reports of stores and ignore them; methods must be quick."""

    def operation(self, store: str, operation: str, outcome: Outcome, seconds: float) -> None:
        """Report the end of a call of a `Store` or `BlobStore` method.

        Args:
            store: the store's tier.
            operation: the method's name.
            outcome: "ok"; "miss" if there was no value; "refused" if the value is too large, writes are refused, or a
                lease did not hold; "error" if the store could not be reached.
            seconds: duration, with encoding and decoding.
        """

    def transferred(self, store: str, direction: Literal["read", "written"], nbytes: int) -> None:
        """Report the bytes of a context that was read or written."""

    def holds(self, store: str, nbytes: int) -> None:
        """Report the bytes of tensors that a store in memory now holds."""

    def evicted(self, store: str, reason: Eviction, lifetime: float, idle: float) -> None:
        """Report a context that a store in memory dropped by itself.

        Args:
            store: the store's tier.
            reason: "room" if another context needed its room; "expired" if its ttl was over.
            lifetime: seconds since it was put.
            idle: seconds since its last use.
        """

    def damaged(self, store: str, reason: str) -> None:
        """Report a value that is damaged, or not the one of its key.

        Args:
            store: the store's tier.
            reason: see `ContextFormatError.reason`; or "record" for a blob, "lease" for a lease, "index" for the index
                or one of its members.
        """

    def writes(self, store: str, refusal: str | None) -> None:
        """Report a write that was done (None) or refused; see `WritesRefusedError.reason`."""

    def breaker(self, store: str, node: str, is_open: bool) -> None:
        """Report that a node's circuit breaker opened or closed."""


class Observed(Protocol):
    """Have the attributes that `observed` reads."""

    tier: str
    observer: StoreObserver


S = TypeVar("S", bound=Observed)


def observed(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Wrap a store's method to report each call to the store's observer."""
    name = method.__name__

    @functools.wraps(method)
    async def report_call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        started = time.perf_counter()

        def report(outcome: Outcome) -> None:
            self.observer.operation(self.tier, name, outcome, time.perf_counter() - started)

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
        is_miss = result is False or (result is None and name in _MAY_MISS)
        report("miss" if is_miss else "ok")
        if name in _WRITES:
            self.observer.writes(self.tier, None)
        return result

    return report_call


_WRITES = {"put", "lease", "write"}  # the calls that always write
_MAY_MISS = {"get", "peek", "info", "lease", "read"}
