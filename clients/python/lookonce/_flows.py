"""What is done with a server, written once for the clients that block and those that are awaited.

A flow is a generator that yields the steps to take, a request to send or a pause to make, is handed what came of each
(or has the error thrown in), and returns a result. A transport takes the steps; it decides nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Generator, Iterator
from itertools import count
from typing import Any, NamedTuple, TypeVar

from . import _protocol
from ._exceptions import APIResponseError, LookonceError
from ._images import context_id
from ._protocol import Request
from ._retries import DEFAULT_RETRIES, retry_delay
from ._saved import Tally
from ._types import Context, ContextStats

PAGE = 100  # contexts fetched at a time
T = TypeVar("T")


class Pause(NamedTuple):
    """A time to let pass."""

    seconds: float


Flow = Generator[Request | Pause, Any, T]


class Server:
    """What is known of a server, and the flows that need nothing else.

    Args:
        model: the model to ask; None takes the first that the server serves.
        max_retries: how often a request is sent again, see `_retries`.
    """

    def __init__(self, model: str | None = None, max_retries: int = DEFAULT_RETRIES) -> None:
        if max_retries < 0:
            raise ValueError(f"max_retries is {max_retries}; 0 or more is expected")
        self.tally = Tally()
        self._model = model
        self._max_retries = max_retries

    def send(self, request: Request, *, give_up_on: Collection[str] = ()) -> Flow[Any]:
        """Send a request, again where that may help; returns the reply, in the form that the request names.

        Args:
            request: what to send.
            give_up_on: codes of errors that are not worth sending it again: the caller knows better.
        """
        for retries in count():
            try:
                return (yield request)
            except LookonceError as error:
                known_better = getattr(error, "code", None) in give_up_on
                seconds = None if known_better or retries == self._max_retries else retry_delay(error, retries)
                if seconds is None:
                    raise
            yield Pause(seconds)
        raise AssertionError("unreachable")

    def model(self) -> Flow[str]:
        """The model to ask, looked up once."""
        if self._model is None:
            served = yield from self.models()
            if not served:
                raise APIResponseError("the server serves no model")
            self._model = served[0]
        return self._model

    def models(self) -> Flow[list[str]]:
        """The names of the models served."""
        return _protocol.read_model_ids((yield from self.send(_protocol.list_models())))

    def get_context(self, name: str) -> Flow[Context]:
        """One context."""
        return _protocol.read_context((yield from self.send(_protocol.get_context(context_id(name)))))

    def delete_context(self, name: str) -> Flow[None]:
        """Remove a context."""
        yield from self.send(_protocol.delete_context(context_id(name)))

    def context_stats(self) -> Flow[ContextStats]:
        """What the contexts amount to."""
        return _protocol.read_stats((yield from self.send(_protocol.context_stats())))

    def pages(self, limit: int | None) -> Iterator[Flow[list[Context]]]:
        """The pages of the contexts, each a flow that is to be run before the next is taken."""
        left, after, more = sys.maxsize if limit is None else limit, None, True

        def page() -> Flow[list[Context]]:
            nonlocal left, after, more
            found = _protocol.read_page((yield from self.send(_protocol.list_contexts(min(left, PAGE), after))))
            shown = found.contexts[:left]
            left, after, more = left - len(shown), found.next, found.next is not None
            return shown

        while left > 0 and more:
            yield page()
