"""Mark the parts of a request as spans, where requests are traced.

Nothing here imports OpenTelemetry: `tracing.otlp` makes the spans. Where it is not used, a mark costs one look at a
context variable. No attribute may have anything that a client sent, nor the name of a tenant or a context.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol, Self

Attributes = Mapping[str, str | bool | int | float | Sequence[str]]


class Span(Protocol):
    """A part of a request: it begins when it is made. Times are those of `time.monotonic`."""

    attributes: dict[str, object]

    @property
    def trace_id(self) -> str:
        """Return the trace's id, 32 hex digits."""

    def annotate(self, attributes: Attributes) -> None:
        """Add attributes."""

    def start_child(self, name: str, at: float | None = None) -> "Span":
        """Start a part of this part, at a time or now."""

    def end(self, at: float | None = None, error: BaseException | None = None) -> None:
        """End it, at a time or now, by an error or without one."""

    def trace_headers(self) -> dict[str, str]:
        """Return the W3C headers by which another process goes on with the trace."""


current_span: ContextVar[Span | None] = ContextVar("current_span", default=None)


def span(name: str) -> AbstractContextManager[object]:
    """Mark a block as a part of the request. It must not yield to its caller."""
    parent = current_span.get()
    return nullcontext() if parent is None else _child(parent, name)


@contextmanager
def _child(parent: Span, name: str) -> Iterator[None]:
    child = parent.start_child(name)
    token = current_span.set(child)
    try:
        yield
    except BaseException as error:
        child.end(error=error)
        raise
    else:
        child.end()
    finally:
        current_span.reset(token)


def annotate(attributes: Attributes) -> None:
    """Add attributes to the current part of the request."""
    if (current := current_span.get()) is not None:
        current.annotate(attributes)


def trace_id() -> str | None:
    """Return the id of the request's trace, if it is traced."""
    current = current_span.get()
    return None if current is None else current.trace_id


def trace_headers() -> dict[str, str] | None:
    """Return the headers by which another process goes on with the trace, if there is one."""
    current = current_span.get()
    return None if current is None else current.trace_headers()


class Phases:
    """Parts of a request that follow one another, each from the end of the one before.

    Within the block of this context manager; what ends the block ends the phase.

    Args:
        parent: whose parts they are; None: the request is not traced.
        names: of all phases, in order.
    """

    def __init__(self, parent: Span | None, names: Sequence[str]) -> None:
        self._parent = parent
        self._names = deque(names)
        self._name = ""
        self._current: Span | None = None

    @property
    def is_on(self) -> bool:
        """Whether the request is traced."""
        return self._parent is not None

    def __enter__(self) -> Self:
        if self._parent is not None:
            self._start(self._parent, None)
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        if self._current is not None:
            self._current.end(error=error)

    def advance(self, at: float | None = None) -> None:
        """Go on to the next phase, at a time or now; the last one goes on until the end of the block."""
        if self._parent is not None and self._current is not None and self._names:
            at = time.monotonic() if at is None else at
            self._current.end(at)
            self._start(self._parent, at)

    def finish(self) -> None:
        """End the current phase: whoever reads may break off now, for there is nothing more to read."""
        if self._current is not None:
            self._current.end()
            self._current = None

    def leave(self, name: str, at: float) -> None:
        """Go on to the next phase, at a time, if the current one is that."""
        if self._name == name:
            self.advance(at)

    def _start(self, parent: Span, at: float | None) -> None:
        self._name = self._names.popleft()
        self._current = parent.start_child(self._name, at)


def phases(*names: str) -> Phases:
    """Mark several phases of the request, the first of them at once."""
    return Phases(current_span.get(), names)
