"""Who asks: threads that ask a server all kinds of things, and judge what they get."""

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import lookonce
from lookonce_evaluation.soaking.tally import KINDS, Kind, Outcome, Reply, Tally
from lookonce_evaluation.soaking.truth import MAX_TOKENS, Picture

WEIGHTS = (4, 8, 8, 1, 1)  # of `KINDS`
STREAMED, DESCRIBED_FIRST = 0.5, 0.25  # shares of the questions, and of the new images
REMEMBERED = 64  # images that are asked about again
SECONDS = 60.0  # a request that takes longer is lost
OnMiss = Literal["full", "compress"]
REFUSALS = ("context_not_found", "store_unavailable", "context_lost")


class Calm:
    """Since when the store has not been disturbed."""

    def __init__(self) -> None:
        self.since = time.monotonic()

    def end(self) -> None:
        """The store is being disturbed."""
        self.since = math.inf

    def begin(self, after: float) -> None:
        """The store is back; servers have noticed so many seconds from now."""
        self.since = time.monotonic() + after


@dataclass
class Known:
    """An image that a server has been asked about."""

    picture: Picture
    file: bytes
    context_id: str
    last_hit: float = -math.inf  # when the last question that hit its context was sent, in time.monotonic's seconds
    deleted: bool = False


@dataclass
class Shared:
    """What all threads share.

    Attributes:
        url: of the server.
        pictures: what images are made of.
        tally: where replies are counted.
        calm: of the store.
        stop: set when the load is to end.
        known: the images asked about last.
    """

    url: str
    pictures: list[Picture]
    tally: Tally
    calm: Calm = field(default_factory=Calm)
    stop: threading.Event = field(default_factory=threading.Event)
    known: deque[Known] = field(default_factory=lambda: deque(maxlen=REMEMBERED))


class Asked(NamedTuple):
    """What a request that went well says."""

    outcome: Outcome
    hit: bool = False
    degraded: bool = False
    detail: str = ""


class Asker:
    """One thread's part of the load.

    Args:
        shared: with the others.
        seed: of what it asks, and when.
    """

    def __init__(self, shared: Shared, seed: int) -> None:
        self._shared = shared
        self._random = random.Random(seed)
        self._client = lookonce.Client(shared.url, timeout=SECONDS, max_retries=0)  # each reply counts

    def run(self) -> None:
        """Ask until the load is to end."""
        with self._client:
            while not self._shared.stop.is_set():
                (kind,) = self._random.choices(KINDS, WEIGHTS)
                self.request(kind if self._shared.known else "new image")

    def request(self, kind: Kind) -> None:
        """Send one request, about any image that fits, and count what comes of it."""
        send: dict[Kind, Callable[[Known], Asked]] = {
            "new image": self._introduce,
            "known, pixels": self._by_pixels,
            "known, by id": self._by_id,
            "list": self._list,
            "delete": self._delete,
        }
        self._count(kind, self._new() if kind == "new image" else self._any_known(), send[kind])

    def _count(self, kind: Kind, image: Known, send: Callable[[Known], Asked]) -> None:
        started = time.monotonic()
        try:
            asked, unexplained = send(image), False
        except lookonce.LookonceError as error:
            with_pixels = kind in ("new image", "known, pixels")
            refused = not with_pixels and getattr(error, "code", None) in REFUSALS
            unexplained = refused and self._should_be_there(kind, image, started)
            asked = Asked("refused" if refused else "lost", detail=f"{type(error).__name__}: {error}")
        seconds = time.monotonic() - started
        self._shared.tally.add(
            Reply(kind, asked.outcome, seconds, asked.hit, asked.degraded, unexplained, asked.detail)
        )

    def _should_be_there(self, kind: Kind, image: Known, started: float) -> bool:
        """Whether nothing that is known of excuses a refusal: the context was used since all is calm."""
        calm = self._shared.calm.since
        return started > calm and (kind == "list" or (image.last_hit > calm and not image.deleted))

    def _new(self) -> Known:
        picture = self._random.choice(self._shared.pictures)
        return Known(picture, picture.file(), "")

    def _any_known(self) -> Known:
        known = self._shared.known
        return known[self._random.randrange(len(known))]  # its length never shrinks

    def _introduce(self, image: Known) -> Asked:
        on_miss: OnMiss = "compress" if self._random.random() < DESCRIBED_FIRST else "full"
        answer, asked = self._ask(image, image.file, on_miss)
        image.context_id = answer.context_id or ""
        self._shared.known.append(image)
        return asked

    def _by_pixels(self, image: Known) -> Asked:
        answer, asked = self._ask(image, image.file)
        return asked._replace(degraded=not answer.context_tokens)

    def _by_id(self, image: Known) -> Asked:
        return self._ask(image, f"lookonce:{image.context_id}")[1]

    def _list(self, image: Known) -> Asked:
        list(self._client.list_contexts(limit=REMEMBERED))
        return Asked("right")

    def _delete(self, image: Known) -> Asked:
        image.deleted = True  # before it is: others ask about it meanwhile
        self._client.delete_context(image.context_id)
        return Asked("right")

    def _ask(self, image: Known, source: bytes | str, on_miss: OnMiss = "full") -> tuple[lookonce.Answer, Asked]:
        question = self._random.choice(list(image.picture.answers))
        session = self._client.image(source)
        options: lookonce.AskOptions = {"max_tokens": MAX_TOKENS, "on_miss": on_miss}
        asked_at = time.monotonic()
        if self._random.random() < STREAMED:
            with session.stream(question, **options) as stream:
                for _ in stream:
                    pass
            answer = stream.answer
        else:
            answer = session.ask(question, **options)
        right = image.picture.answers[question]
        if answer.hit:
            image.last_hit = max(image.last_hit, asked_at)
        is_same_image = image.context_id in ("", answer.context_id)
        is_right = right.is_met_by(answer) and is_same_image
        said = f"{question!r} of {image.context_id!r}: {answer}; right is {right}"
        return answer, Asked("right", answer.hit) if is_right else Asked("wrong", answer.hit, detail=said)
