"""Send requests of all kinds to a server under faults, and judge the replies."""

import io
import math
import random
import secrets
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from PIL import Image
from PIL.PngImagePlugin import PngInfo

import lookonce
from lookonce_evaluation.errors import EvaluationError
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

- right: it succeeded, and an answer is the expected one for the image and the pass that gave it;
- wrong: an answer that is not;
- refused: 404 or 503, in the API's own words, where no pixels were sent that the server could have gone by;
- lost: anything else. An error in answer to pixels, a connection that breaks, a reply that is none.
"""


class Expected(NamedTuple):
    """The right answers to one question about one picture."""

    full: str  # by the full pass
    context: str  # from the compressed context


@dataclass(frozen=True)
class Picture:
    """A picture, and the right answers by question."""

    image: Image.Image
    answers: dict[str, Expected]

    def file(self) -> bytes:
        """Encode the picture as a new image file: the same pixels, a fresh comment.

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
    """Draw pictures and record a quiet server's answers.

    Args:
        url: the server's URL; nobody else may use it.
        pictures: the number of pictures.
        questions: the number of questions about each; the first one is to describe it.

    Raises:
        EvaluationError: an answer did not come from the pass that was asked for.
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
    """Compute the chance that another picture's answer passes for right."""
    chances: list[float] = []
    for question in {question for picture in pictures for question in picture.answers}:
        answers = [picture.answers[question] for picture in pictures if question in picture.answers]
        for texts in zip(*answers, strict=True):  # the full passes' answers, then those from contexts
            counts, others = Counter(texts), len(texts) - 1
            chances += [(counts[text] - 1) / others for text in texts if others]
    return statistics.fmean(chances)


class Reply(NamedTuple):
    """The reply to one request."""

    kind: Kind
    outcome: Outcome
    seconds: float = 0.0
    sent: float = 0.0  # time.monotonic
    answer: lookonce.Answer | None = None
    error: lookonce.LookonceError | None = None
    unexplained: bool = False  # refused although the store had the context, and has been up ever since
    detail: str = ""

    @property
    def hit(self) -> bool:
        """Whether the image's context answered."""
        return self.answer is not None and self.answer.hit

    @property
    def degraded(self) -> bool:
        """Whether a known image was answered by the full pass."""
        return self.kind == "known, pixels" and self.answer is not None and not self.answer.context_tokens


@dataclass
class KnownImage:
    """An image that the server has seen."""

    picture: Picture
    file: bytes
    context_id: str
    last_hit: float = -math.inf  # when the last question that hit its context was sent, in time.monotonic's seconds
    deleted: bool = False


class Load:
    """Send requests from several threads while the `with` block runs.

    Args:
        url: the server's URL.
        pictures: new images show these.
        known: images that the server knows already.
        weights: how often each kind of request is sent.
        max_tokens: the most tokens of an answer.

    Attributes:
        replies: the replies so far.
        undisturbed_since: since when the store works and the server knows it, time.monotonic; infinite while it does
            not.
    """

    THREADS = 4

    def __init__(
        self,
        url: str,
        pictures: Sequence[Picture] = (),
        *,
        known: Iterable[KnownImage] = (),
        weights: Mapping[Kind, int] = WEIGHTS,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        self.replies: list[Reply] = []
        self.undisturbed_since = time.monotonic()
        self._pictures = pictures
        self._known = deque(known, maxlen=REMEMBERED)
        self._weights = weights
        self._max_tokens = max_tokens
        self._random = random.Random(0)
        self._client = lookonce.Client(url, timeout=TIMEOUT_SECONDS, max_retries=0)  # each reply counts
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(self.THREADS)
        self._running: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._running = [self._pool.submit(self._run) for _ in range(self.THREADS)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown()
        self._client.close()
        if error is None:
            self.check_threads()

    def check_threads(self) -> None:
        """Raise the error of a thread that has ended by one."""
        for thread in self._running:
            if thread.done():
                thread.result()

    def request(self, kind: Kind) -> None:
        """Send one request, about any image that fits, and record the reply."""
        is_new = kind == "new image"
        image = self._new_image() if is_new else self._random.choice(self._known)  # it never shrinks
        sent = time.monotonic()
        try:
            reply = self._send(kind, image)
            if is_new:
                self._known.append(image)
        except lookonce.LookonceError as error:
            reply = self._failure(kind, image, sent, error)
        self.replies.append(reply._replace(sent=sent, seconds=time.monotonic() - sent))

    def _run(self) -> None:
        while not self._stop.is_set():
            (kind,) = self._random.choices(list(self._weights), list(self._weights.values()))
            self.request(kind if self._known else "new image")

    def _send(self, kind: Kind, image: KnownImage) -> Reply:
        if kind == "list":
            list(self._client.list_contexts(limit=REMEMBERED))
            return Reply(kind, "right")
        if kind == "delete":
            image.deleted = True  # before it is: others ask about it meanwhile
            self._client.delete_context(image.context_id)
            return Reply(kind, "right")
        return self._ask(kind, image)

    def _ask(self, kind: Kind, image: KnownImage) -> Reply:
        """Ask about an image, streaming or not, and judge the answer."""
        question = self._random.choice(list(image.picture.answers))
        session = self._client.image(f"lookonce:{image.context_id}" if kind == "known, by id" else image.file)
        describe_first = kind == "new image" and self._random.random() < DESCRIBED_FIRST
        options: lookonce.AskOptions = {
            "max_tokens": self._max_tokens,
            "on_miss": "compress" if describe_first else "full",
        }
        sent = time.monotonic()
        if self._random.random() < STREAMED:
            with session.stream(question, **options) as stream:
                for _ in stream:
                    pass
            answer = stream.answer
        else:
            answer = session.ask(question, **options)
        if answer.hit:
            image.last_hit = max(image.last_hit, sent)
        expected = image.picture.answers[question]
        is_same_image = image.context_id in ("", answer.context_id)
        detail = f"{question!r} of {image.context_id!r}: {answer}; right is {expected}"
        image.context_id = image.context_id or answer.context_id or ""
        if is_same_image and answer.text == (expected.context if answer.context_tokens else expected.full):
            return Reply(kind, "right", answer=answer)
        return Reply(kind, "wrong", answer=answer, detail=detail)

    def _failure(self, kind: Kind, image: KnownImage, sent: float, error: lookonce.LookonceError) -> Reply:
        with_pixels = kind in ("new image", "known, pixels")
        refused = not with_pixels and getattr(error, "code", None) in REFUSALS
        since = self.undisturbed_since
        # Nothing excuses a refusal if the context was used since the store was last disturbed.
        inexcusable = sent > since and (kind == "list" or (image.last_hit > since and not image.deleted))
        detail = f"{type(error).__name__}: {error}"
        outcome: Outcome = "refused" if refused else "lost"
        return Reply(kind, outcome, error=error, unexplained=refused and inexcusable, detail=detail)

    def _new_image(self) -> KnownImage:
        picture = self._random.choice(self._pictures)
        return KnownImage(picture, picture.file(), "")


COLUMNS: dict[str, Callable[[Reply], bool]] = {
    "requests": lambda _: True,
    "answers": lambda reply: reply.outcome in ("right", "wrong"),
    "wrong": lambda reply: reply.outcome == "wrong",
    "lost": lambda reply: reply.outcome == "lost",
    "refused clearly": lambda reply: reply.outcome == "refused",
    "unexplained": lambda reply: reply.unexplained,
    "hits": lambda reply: reply.hit,
    "degraded": lambda reply: reply.degraded,
}


def figures(replies: Sequence[Reply]) -> dict[str, Any]:
    """Count replies; times in milliseconds, of the right ones."""
    counts = {name: sum(map(belongs, replies)) for name, belongs in COLUMNS.items()}
    times = sorted(1000 * reply.seconds for reply in replies if reply.outcome == "right")
    cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
    p50, p99 = (cuts[49], cuts[98]) if cuts else (None, None)
    return {**counts, "p50_ms": p50, "p99_ms": p99, "longest_ms": max(times, default=None)}


def by_kind(replies: Sequence[Reply]) -> dict[str, dict[str, Any]]:
    """Count the replies of each kind, and all together."""
    kinds = {kind: figures([reply for reply in replies if reply.kind == kind]) for kind in WEIGHTS}
    return kinds | {"all": figures(replies)}
