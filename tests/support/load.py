"""Clients that never stop asking, whatever becomes of the server's store meanwhile."""

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Self

from .http_requests import Known, Reply, question_about, reply_of
from .pictures import picture_url
from .server_process import LookonceServer

THREADS = 4
PATIENCE = 60.0  # seconds; only a failure waits that long


class Outcome(NamedTuple):
    """A question under load, and its answer."""

    kind: Literal["image", "id"]  # the image came along, or only its context's id
    about: Known
    reply: Reply

    @property
    def is_right(self) -> bool:
        """Whether a text was answered that may be said of the picture."""
        known = self.about
        expected = {"hit": known.hit, "miss": known.full}
        return self.reply.text is not None and expected.get(self.reply.cache or "") == self.reply.text


class Load:
    """Asks about known pictures from several threads while its `with` block runs: half by the image, half by id.

    Args:
        server: who is asked.
        pictures: about what.
    """

    def __init__(self, server: LookonceServer, pictures: Sequence[Known]) -> None:
        self._server = server
        self._pictures = pictures
        self._seen: list[tuple[float, Outcome]] = []  # each with when it was asked, monotonic
        self._errors: list[BaseException] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, args=(i,)) for i in range(THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert error is not None or not self._errors, self._errors

    def go_on(self, count: int = 10) -> list[Outcome]:
        """What came of the questions asked from now on, once that many of each kind were answered."""
        now = time.monotonic()
        seen: list[Outcome] = []
        deadline = time.monotonic() + PATIENCE
        while min(kinds(seen).values(), default=0) < count or len(kinds(seen)) < 2:
            assert time.monotonic() < deadline, f"after {PATIENCE} s: {tally(seen)}"
            assert not self._errors, self._errors
            time.sleep(0.02)
            seen = [outcome for begun, outcome in list(self._seen) if begun > now]
        return seen

    def go_on_until_hits(self) -> None:
        """Return once a number of questions in a row, of both kinds, were answered from contexts."""
        deadline = time.monotonic() + PATIENCE
        seen = self.go_on(5)
        while any(outcome.reply.cache != "hit" for outcome in seen):
            assert time.monotonic() < deadline, tally(seen)
            seen = self.go_on(5)

    @property
    def outcomes(self) -> list[Outcome]:
        """All that the clients saw."""
        return [outcome for _, outcome in self._seen]

    def _ask_on(self, number: int) -> None:
        chance = random.Random(number)
        try:
            with self._server.http() as client:
                for kind in itertools.cycle(("image", "id") if number % 2 else ("id", "image")):
                    if self._over.is_set():
                        return
                    about = chance.choice(self._pictures)
                    image = picture_url(about.seed) if kind == "image" else about.reference()
                    begun = time.monotonic()
                    reply = reply_of(client.post("/v1/chat/completions", json=question_about(image)))
                    self._seen.append((begun, Outcome(kind, about, reply)))
        except BaseException as error:
            self._errors.append(error)


def kinds(outcomes: Sequence[Outcome]) -> Counter[str]:
    """How many there are of each kind."""
    return Counter(outcome.kind for outcome in outcomes)


def tally(outcomes: Sequence[Outcome]) -> Counter[tuple[str, int, str | None, str | None]]:
    """How many there are of each kind, status, cache and error code."""
    return Counter((o.kind, o.reply.status, o.reply.cache, o.reply.code) for o in outcomes)


def assert_nothing_lost_and_nothing_wrong(outcomes: Sequence[Outcome], *, may_forget: bool = False) -> None:
    """Every question with its image was answered; those with an id were, or were refused in words a client can act on.

    Args:
        outcomes: what the clients saw.
        may_forget: whether the store may have lost contexts.
    """
    refusals = {(503, "store_unavailable", "1")} | ({(404, "context_not_found", None)} if may_forget else set())
    for outcome in outcomes:
        reply = outcome.reply
        if reply.status == 200:
            assert outcome.is_right, outcome
        else:
            assert outcome.kind == "id", outcome
            assert (reply.status, reply.code, reply.retry_after) in refusals, outcome
