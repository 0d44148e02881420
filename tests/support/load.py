"""Load on a server about known pictures, while a fault comes and goes."""

import time
from collections import Counter
from collections.abc import Sequence

from PIL import Image

import lookonce
from lookonce_evaluation.bench import load
from lookonce_evaluation.bench.load import Expected, KnownImage, Picture, Reply

from .http_requests import QUESTION, Known
from .pictures import png
from .server_process import LookonceServer

PATIENCE = 60.0  # seconds; only a failure waits that long
PIXELS, BY_ID = "known, pixels", "known, by id"
State = tuple[int, str | None, str | None]


class Load(load.Load):
    """Ask about known pictures: half by the image, half by id.

    Args:
        server: who is asked.
        pictures: about what.
    """

    def __init__(self, server: LookonceServer, pictures: Sequence[Known]) -> None:
        known = [
            KnownImage(
                Picture(Image.new("RGB", (1, 1)), {QUESTION: Expected(picture.full, picture.hit)}),
                png(picture.seed),
                picture.context_id,
            )
            for picture in pictures
        ]
        super().__init__(server.url, known=known, weights={"known, pixels": 1, "known, by id": 1}, max_tokens=16)

    def go_on(self, count: int = 10) -> list[Reply]:
        """Return the replies to requests from now on, once there are that many of each kind."""
        now = time.monotonic()
        deadline = now + PATIENCE
        replies: list[Reply] = []
        while min(Counter({PIXELS: 0, BY_ID: 0} | Counter(reply.kind for reply in replies)).values()) < count:
            assert time.monotonic() < deadline, f"after {PATIENCE} s: {tally(replies)}"
            self.check_threads()
            time.sleep(0.02)
            replies = [reply for reply in list(self.replies) if reply.sent > now]
        return replies

    def go_on_until_hits(self) -> None:
        """Return once a number of questions in a row, of both kinds, were answered from contexts."""
        deadline = time.monotonic() + PATIENCE
        while misses := [reply for reply in self.go_on(5) if not reply.hit]:
            assert time.monotonic() < deadline, tally(misses)


def state(reply: Reply) -> State:
    """Return a reply's status, cache and error code."""
    if reply.answer is not None:
        return 200, reply.answer.cache, None
    assert isinstance(reply.error, lookonce.APIStatusError), reply.error
    return reply.error.status_code, None, reply.error.code


def tally(replies: Sequence[Reply]) -> Counter[tuple[str, *State]]:
    """Count the replies of each kind, status, cache and error code."""
    return Counter((reply.kind, *state(reply)) for reply in replies)


def assert_nothing_lost_and_nothing_wrong(replies: Sequence[Reply], *, may_forget: bool = False) -> None:
    """Check that all with an image was answered rightly, and the rest too or refused in words to act on.

    Args:
        replies: all that the clients saw.
        may_forget: whether the store may have lost contexts.
    """
    refusals = {(503, "store_unavailable", 1.0)} | ({(404, "context_not_found", None)} if may_forget else set())
    for reply in replies:
        if reply.outcome != "right":
            assert reply.outcome == "refused", reply
            assert isinstance(reply.error, lookonce.APIStatusError)
            assert (reply.error.status_code, reply.error.code, reply.error.retry_after) in refusals, reply
