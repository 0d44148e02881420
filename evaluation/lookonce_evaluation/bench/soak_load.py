"""The soak's load: threads that ask a server all kinds of things, judge what they get, and count it."""

import io
import math
import random
import secrets
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

import lookonce
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.tables import header, line
from lookonce_scenes.questions import DESCRIBE_PROMPTS, OPEN
from lookonce_scenes.world import render, sample_scene

MAX_TOKENS = 48
FIRST_SEED = 600_000_000  # none that another evaluation uses
STREAMED, DESCRIBED_FIRST = 0.5, 0.25  # shares of the questions, and of the new images
REMEMBERED = 64  # images that are asked about again
TIMEOUT_SECONDS = 60.0  # a request that takes longer is lost
REFUSALS = ("context_not_found", "store_unavailable", "context_lost")

Kind = Literal["new image", "known, pixels", "known, by id", "list", "delete"]
WEIGHTS: dict[Kind, int] = {"new image": 4, "known, pixels": 8, "known, by id": 8, "list": 1, "delete": 1}

Outcome = Literal["right", "wrong", "lost", "refused"]
"""Of a request:

- right: what was asked for, and an answer is the one that is right for the image by the way it came;
- wrong: an answer that is not;
- refused: 404 or 503, in the API's own words, where no pixels were sent that the server could have gone by;
- lost: anything else. An error in answer to pixels, a connection that breaks, a reply that is none.
"""


class Expected(NamedTuple):
    """The right answers to one question about one picture."""

    full: str  # by the full pass
    context: str  # from the compressed context

    def is_met_by(self, answer: lookonce.Answer) -> bool:
        """Whether an answer is the one of the way it says it came."""
        return answer.text == (self.context if answer.context_tokens else self.full)


@dataclass(frozen=True)
class Picture:
    """A picture that may be asked about.

    Attributes:
        image: what is drawn.
        answers: by question.
    """

    image: Image.Image
    answers: dict[str, Expected]

    def file(self) -> bytes:
        """Return the picture as an image file no server has seen: the same pixels, and a comment of its own.

        Servers tell images by their bytes, so that this is a new image whose right answers are known.
        """
        comment = PngInfo()
        comment.add_text("Comment", secrets.token_hex(16))
        file = io.BytesIO()
        # A copy, since Pillow keeps what it is to write on the image while it saves: with one image, threads that save
        # at once lose their comments, or write each other's, and two "new" images are one.
        self.image.copy().save(file, "PNG", pnginfo=comment)
        return file.getvalue()


def record_answers(url: str, pictures: int, questions: int) -> list[Picture]:
    """Draw pictures, and ask a server that nobody else asks what is right.

    Args:
        url: of the server.
        pictures: how many.
        questions: about each, the first to describe it; `chance_of_passing` tells how well they tell pictures apart.

    Raises:
        EvaluationError: an answer did not come the way it was asked for.
    """
    with lookonce.Client(url) as client:
        return [_record_picture(client, FIRST_SEED + number, questions) for number in range(pictures)]


def _record_picture(client: lookonce.Client, seed: int, questions: int) -> Picture:
    scene = sample_scene(seed)
    rng = random.Random(seed)
    about_scene = [question.text for sample in OPEN.values() if (question := sample(scene, rng))]
    picture = Picture(Image.fromarray(render(scene)), {})
    described = client.image(picture.file())
    described.prepare()
    for text in [DESCRIBE_PROMPTS[1], *about_scene][:questions]:
        full = client.image(picture.file()).ask(text, max_tokens=MAX_TOKENS)
        context = described.ask(text, max_tokens=MAX_TOKENS)
        if full.hit or full.context_tokens or not context.hit:
            raise EvaluationError("the quiet server did not answer once by the full pass and once from the context")
        picture.answers[text] = Expected(full.text, context.text)
    return picture


def chance_of_passing(pictures: Sequence[Picture]) -> float:
    """Return the chance that another picture's answer to the same question, the same way, would pass for right."""
    return statistics.fmean(_chances(pictures))


def _chances(pictures: Sequence[Picture]) -> Iterator[float]:
    for question in {question for picture in pictures for question in picture.answers}:
        expected = [picture.answers[question] for picture in pictures if question in picture.answers]
        others = len(expected) - 1
        for texts in ([each.full for each in expected], [each.context for each in expected]):
            counts = Counter(texts)
            yield from ((counts[text] - 1) / others for text in texts if others)


class Reply(NamedTuple):
    """What came of one request."""

    kind: Kind
    outcome: Outcome
    seconds: float = 0.0
    hit: bool = False
    degraded: bool = False  # a known image with its pixels, answered by the full pass
    unexplained: bool = False  # refused although the store had the context, and has been up ever since
    detail: str = ""


class StoreCondition:
    """Since when the store has not been disturbed, in time.monotonic's seconds."""

    def __init__(self) -> None:
        self.undisturbed_since = time.monotonic()

    def disturb(self) -> None:
        """The store is being disturbed."""
        self.undisturbed_since = math.inf

    def restore(self, after: float) -> None:
        """The store is back; servers have noticed so many seconds from now."""
        self.undisturbed_since = time.monotonic() + after


@dataclass
class KnownImage:
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
        replies: to all requests so far.
        condition: of the store.
        stop: set when the load is to end.
        known: the images asked about last.
    """

    url: str
    pictures: list[Picture]
    replies: list[Reply] = field(default_factory=list)
    condition: StoreCondition = field(default_factory=StoreCondition)
    stop: threading.Event = field(default_factory=threading.Event)
    known: deque[KnownImage] = field(default_factory=lambda: deque(maxlen=REMEMBERED))


class LoadThread:
    """One thread's part of the load.

    Args:
        shared: with the others.
        seed: of what it asks, and when.
    """

    def __init__(self, shared: Shared, seed: int) -> None:
        self._shared = shared
        self._random = random.Random(seed)
        self._client = lookonce.Client(shared.url, timeout=TIMEOUT_SECONDS, max_retries=0)  # each reply counts

    def run(self) -> None:
        """Ask until the load is to end."""
        with self._client:
            while not self._shared.stop.is_set():
                (kind,) = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))
                self.request(kind if self._shared.known else "new image")

    def request(self, kind: Kind) -> None:
        """Send one request, about any image that fits, and count what comes of it."""
        send: dict[Kind, Callable[[KnownImage], Reply]] = {
            "new image": self._introduce,
            "known, pixels": self._ask_by_pixels,
            "known, by id": lambda image: self.ask("known, by id", image, f"lookonce:{image.context_id}"),
            "list": self._list,
            "delete": self._delete,
        }
        image = self._new_image() if kind == "new image" else self._any_known()
        started = time.monotonic()
        try:
            reply = send[kind](image)
        except lookonce.LookonceError as error:
            reply = self._failure(kind, image, started, error)
        self._shared.replies.append(reply._replace(seconds=time.monotonic() - started))

    def ask(self, kind: Kind, image: KnownImage, source: bytes | str, *, describe_first: bool = False) -> Reply:
        """Ask about an image, streaming or not, and judge the answer."""
        question = self._random.choice(list(image.picture.answers))
        session = self._client.image(source)
        options: lookonce.AskOptions = {"max_tokens": MAX_TOKENS, "on_miss": "compress" if describe_first else "full"}
        asked_at = time.monotonic()
        if self._random.random() < STREAMED:
            with session.stream(question, **options) as stream:
                for _ in stream:
                    pass
            answer = stream.answer
        else:
            answer = session.ask(question, **options)
        if answer.hit:
            image.last_hit = max(image.last_hit, asked_at)
        expected = image.picture.answers[question]
        is_same_image = image.context_id in ("", answer.context_id)
        detail = f"{question!r} of {image.context_id!r}: {answer}; right is {expected}"
        if not image.context_id:
            image.context_id = answer.context_id or ""
        degraded = kind == "known, pixels" and not answer.context_tokens
        if expected.is_met_by(answer) and is_same_image:
            return Reply(kind, "right", hit=answer.hit, degraded=degraded)
        return Reply(kind, "wrong", hit=answer.hit, degraded=degraded, detail=detail)

    def _failure(self, kind: Kind, image: KnownImage, started: float, error: lookonce.LookonceError) -> Reply:
        with_pixels = kind in ("new image", "known, pixels")
        refused = not with_pixels and getattr(error, "code", None) in REFUSALS
        since = self._shared.condition.undisturbed_since
        # Nothing that is known of excuses a refusal if the context was used since the store was last disturbed.
        inexcusable = started > since and (kind == "list" or (image.last_hit > since and not image.deleted))
        detail = f"{type(error).__name__}: {error}"
        return Reply(kind, "refused" if refused else "lost", unexplained=refused and inexcusable, detail=detail)

    def _new_image(self) -> KnownImage:
        picture = self._random.choice(self._shared.pictures)
        return KnownImage(picture, picture.file(), "")

    def _any_known(self) -> KnownImage:
        known = self._shared.known
        return known[self._random.randrange(len(known))]  # its length never shrinks

    def _introduce(self, image: KnownImage) -> Reply:
        reply = self.ask("new image", image, image.file, describe_first=self._random.random() < DESCRIBED_FIRST)
        self._shared.known.append(image)
        return reply

    def _ask_by_pixels(self, image: KnownImage) -> Reply:
        return self.ask("known, pixels", image, image.file)

    def _list(self, image: KnownImage) -> Reply:
        list(self._client.list_contexts(limit=REMEMBERED))
        return Reply("list", "right")

    def _delete(self, image: KnownImage) -> Reply:
        image.deleted = True  # before it is: others ask about it meanwhile
        self._client.delete_context(image.context_id)
        return Reply("delete", "right")


COLUMNS: dict[str, Callable[[Sequence[Reply]], int]] = {
    "requests": len,
    "answers": lambda replies: sum(reply.outcome in ("right", "wrong") for reply in replies),
    "wrong": lambda replies: sum(reply.outcome == "wrong" for reply in replies),
    "lost": lambda replies: sum(reply.outcome == "lost" for reply in replies),
    "refused clearly": lambda replies: sum(reply.outcome == "refused" for reply in replies),
    "unexplained": lambda replies: sum(reply.unexplained for reply in replies),
    "hits": lambda replies: sum(reply.hit for reply in replies),
    "degraded": lambda replies: sum(reply.degraded for reply in replies),
}
HEADER = header("request", *COLUMNS, "p50, ms", "p99, ms", "longest, ms")


def figures(replies: Sequence[Reply]) -> dict[str, Any]:
    """Return the columns of some replies; times in milliseconds, of those that got what they asked for."""
    counts = {name: count(replies) for name, count in COLUMNS.items()}
    times = sorted(1000 * reply.seconds for reply in replies if reply.outcome == "right")
    cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
    p50, p99 = (cuts[49], cuts[98]) if cuts else (None, None)
    return {**counts, "p50_ms": p50, "p99_ms": p99, "longest_ms": max(times, default=None)}


def by_kind(replies: Sequence[Reply]) -> dict[str, dict[str, Any]]:
    """Return the figures of each kind of request."""
    return {kind: figures([reply for reply in replies if reply.kind == kind]) for kind in WEIGHTS}


def table(replies: Sequence[Reply]) -> list[str]:
    """Return the lines of the table: each kind, and all together."""
    rows = by_kind(replies) | {"all": figures(replies)}
    lines = (
        line((name, *("-" if figure is None else f"{figure:.0f}" for figure in row.values())))
        for name, row in rows.items()
    )
    return [HEADER, *lines]
