"""Send requests for both clients, and again if that may help.

A flow is a generator, as httpx's `auth_flow`: it yields a request to send or a pause to make, receives the reply (or
has the error thrown in), and returns a result. A transport runs flows and decides nothing.

Every request may be sent twice without harm: asking changes nothing but the store of contexts, and there the same image
makes the same context. So the only question is whether asking again may help:

- the connection was refused, lost, or not made in time: yes, the server may be restarting;
- connected, but no answer within the timeout: no, the server works on it, and the caller's patience is used up;
- 408, 429, 502, 503, 504: yes, these are temporary;
- 500 and every other status: no, the same request would fail the same way.

A stream is covered until its reply begins; after that the caller has pieces of it.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Collection, Generator, Iterator
from itertools import count
from typing import Any, NamedTuple, TypeVar

from . import _requests
from ._exceptions import APIConnectionError, APIResponseError, APIStatusError, APITimeoutError, LookonceError
from ._requests import Request
from ._types import Answer, Context, Saved

DEFAULT_RETRIES = 2
FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 8.0
MAX_RETRY_AFTER_SECONDS = 60.0  # a server that asks for more is not waited for
PAGE_SIZE = 100
_RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})
T = TypeVar("T")


class Pause(NamedTuple):
    """A time to wait."""

    seconds: float


Flow = Generator[Request[Any] | Pause, Any, T]


class SavedCounter:
    """Count savings; any number of threads may add to it.

    Args:
        parent: a counter that counts the same in addition.
    """

    def __init__(self, parent: SavedCounter | None = None) -> None:
        self._parent = parent
        self._lock = threading.Lock()
        self._total = Saved()

    @property
    def total(self) -> Saved:
        """The savings so far."""
        return self._total

    def add(self, answer: Answer, bytes_not_sent: int) -> None:
        """Count an answer."""
        with self._lock:
            total = self._total
            self._total = Saved(
                total.questions + 1,
                total.hits + answer.hit,
                total.prompt_tokens_saved + answer.tokens_saved,
                total.prompt_tokens_full + _full_prompt_tokens(answer),
                total.bytes_not_sent + bytes_not_sent,
                total.images + len(answer.images),
                total.image_hits + sum(usage.cache == "hit" for usage in answer.images),
            )
        if self._parent:
            self._parent.add(answer, bytes_not_sent)


class Server:
    """Send requests to one server and follow its pages.

    Args:
        model: the model to ask; None takes the first that the server serves.
        max_retries: how often a request is sent again.

    Attributes:
        saved: counts the savings of all questions.
    """

    def __init__(self, model: str | None = None, max_retries: int = DEFAULT_RETRIES) -> None:
        if max_retries < 0:
            raise ValueError(f"max_retries is {max_retries}; 0 or more is expected")
        self.saved = SavedCounter()
        self._model = model
        self._max_retries = max_retries

    def send(self, request: Request[T], *, not_retried: Collection[str] = ()) -> Flow[T]:
        """Send a request, again if that may help, and parse its reply.

        Args:
            request: the request.
            not_retried: codes of errors that the caller handles itself.
        """
        for retries in count():
            try:
                return request.parse((yield request))
            except (APIConnectionError, APIStatusError) as error:
                is_final = retries == self._max_retries or getattr(error, "code", None) in not_retried
                seconds = None if is_final else retry_delay(error, retries)
                if seconds is None:
                    raise
            yield Pause(seconds)
        raise AssertionError("unreachable")

    def model(self) -> Flow[str]:
        """Return the model to ask, which is looked up once."""
        if self._model is None:
            models = yield from self.send(_requests.list_models())
            if not models:
                raise APIResponseError("the server serves no model")
            self._model = models[0]
        return self._model

    def context_pages(self, limit: int | None) -> Iterator[Flow[list[Context]]]:
        """Yield a flow for each page of contexts; run each before the next is taken."""
        left, after, has_more = sys.maxsize if limit is None else limit, None, True

        def fetch() -> Flow[list[Context]]:
            nonlocal left, after, has_more
            page = yield from self.send(_requests.list_contexts(min(left, PAGE_SIZE), after))
            contexts = page.contexts[:left]
            left, after, has_more = left - len(contexts), page.next, page.next is not None
            return contexts

        while left > 0 and has_more:
            yield fetch()


def retry_delay(error: LookonceError, retries: int) -> float | None:
    """Return the seconds to wait before a retry, or None for no retry.

    The delay doubles from retry to retry, and is up to a quarter less by chance, so that clients that failed together
    do not come back together. It is never shorter than the server's `retry-after`.

    Args:
        error: the error of the last attempt.
        retries: how many retries were made before.
    """
    if isinstance(error, APIStatusError):
        if error.status_code not in _RETRIED_STATUSES:
            return None
        retry_after = error.retry_after or 0
    elif isinstance(error, APIConnectionError) and not isinstance(error, APITimeoutError):
        retry_after = 0
    else:
        return None
    if retry_after > MAX_RETRY_AFTER_SECONDS:
        return None
    delay = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(retries, 10))
    return max(retry_after, delay * random.uniform(0.75, 1))  # noqa: S311 - not for secrets


def _full_prompt_tokens(answer: Answer) -> int:
    """Return the prompt tokens without lookonce, with an engine's own cached tokens."""
    if not answer.tokens_saved:
        return answer.prompt_tokens
    return answer.prompt_tokens - answer.cached_tokens + answer.tokens_saved
