"""Ask about several images at once, from many sides, and compare each answer with the one given alone: `make joins`.

A real `lookonce serve` with the bundled model is asked by several threads: conversations of 2 to 8 pictures out of 40,
each picture now by its pixels and now by its context's id, in one message or over turns, the questions in random
order. At first most pictures are new; towards the end all are known.

Each answer is then compared with that of a quiet server, which is asked one question at a time: from the joined
contexts, or from the whole images, as the reply says. Exit status 1 if an answer was another one, or a request failed.
"""

import base64
import io
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import httpx2
from PIL import Image

from lookonce_evaluation.bench import command
from lookonce_evaluation.bench.fixtures import LookonceServer
from lookonce_scenes.questions import DESCRIBE_PROMPTS, OPEN
from lookonce_scenes.world import render, sample_scene

FIRST_SEED = 610_000_000  # none that another evaluation uses
MAX_TOKENS = 24
THREADS = 16
TIMEOUT_SECONDS = 600.0
SHOWN = 20  # of what is wrong


class Plan(NamedTuple):
    """The size of a run."""

    pictures: int = 40
    conversations: int = 100
    questions: int = 10  # of each
    most_images: int = 8


QUICK = Plan(pictures=8, conversations=6, questions=4, most_images=6)


class Question(NamedTuple):
    """A question about several pictures."""

    pictures: tuple[int, ...]  # in their order
    text: str
    over_turns: bool  # whether each picture is sent in a turn of its own


class Request(NamedTuple):
    """A question as it is sent."""

    question: Question
    by_id: tuple[bool, ...]  # of each picture, whether its context's id is sent, if it is known
    on_miss: str


class Reply(NamedTuple):
    """The answer to a request."""

    request: Request
    text: str
    cache: str
    joined: bool  # from contexts, not from whole images
    seconds: float
    error: str = ""


@cache
def picture_url(number: int) -> str:
    """Return a picture as a data: URL."""
    file = io.BytesIO()
    Image.fromarray(render(sample_scene(FIRST_SEED + number))).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def plan_requests(plan: Plan, rng: random.Random) -> list[Request]:
    """Draw the requests of a run, in the order in which they are sent."""
    requests = [request for _ in range(plan.conversations) for request in _conversation(plan, rng)]
    rng.shuffle(requests)
    return requests


def _conversation(plan: Plan, rng: random.Random) -> Iterator[Request]:
    """Draw questions about the same pictures."""
    pictures = tuple(rng.sample(range(plan.pictures), rng.randint(2, plan.most_images)))
    for _ in range(plan.questions):
        scene = sample_scene(FIRST_SEED + rng.choice(pictures))
        asked = OPEN[rng.choice(list(OPEN))](scene, rng)
        question = Question(pictures, asked.text if asked else DESCRIBE_PROMPTS[1], rng.random() < 0.5)
        by_id = tuple(rng.random() < 0.5 for _ in pictures)
        yield Request(question, by_id, "compress" if rng.random() < 0.25 else "full")


def messages(question: Question, urls: Sequence[str]) -> list[dict[str, Any]]:
    """Return the chat that asks a question about pictures, given by their URLs."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    text = {"type": "text", "text": question.text}
    if not question.over_turns:
        return [{"role": "user", "content": [*images, text]}]
    chat: list[dict[str, Any]] = []
    for image in images[:-1]:
        chat += [{"role": "user", "content": [image]}, {"role": "assistant", "content": "I see it."}]
    return [*chat, {"role": "user", "content": [images[-1], text]}]


class Asker:
    """Ask a server, from any thread.

    Args:
        url: the server's.

    Attributes:
        context_ids: of the pictures whose contexts it has, by their numbers.
    """

    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False)
        self._model = self._http.get("/v1/models").json()["data"][0]["id"]
        self.context_ids: dict[int, str] = {}

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def prepare(self, picture: int) -> None:
        """Have a picture described."""
        reply = self._http.post("/v1/contexts", json={"image_url": picture_url(picture)})
        self.context_ids[picture] = reply.raise_for_status().json()["id"]

    def ask(self, request: Request, **lookonce: str) -> Reply:
        """Ask one question."""
        question = request.question
        urls = [
            f"lookonce:{self.context_ids[picture]}" if by_id and picture in self.context_ids else picture_url(picture)
            for picture, by_id in zip(question.pictures, request.by_id, strict=True)
        ]
        body = {"model": self._model, "messages": messages(question, urls), "max_tokens": MAX_TOKENS}
        sent = time.monotonic()
        reply = self._http.post("/v1/chat/completions", json=body | {"lookonce": lookonce})
        seconds = time.monotonic() - sent
        if reply.status_code != 200:
            return Reply(request, "", "", False, seconds, f"{reply.status_code}: {reply.text[:300]}")
        answer = reply.json()
        facts = answer["lookonce"]
        if facts["cache"] == "hit":
            self.context_ids |= {
                picture: image["context_id"] for picture, image in zip(question.pictures, facts["images"], strict=True)
            }
        text = answer["choices"][0]["message"]["content"]
        return Reply(request, text, facts["cache"], facts["context_tokens"] > 0, seconds)


def send_all(url: str, requests: Sequence[Request]) -> list[Reply]:
    """Send requests from several threads."""
    asker = Asker(url)
    with ThreadPoolExecutor(THREADS) as pool:
        replies = list(pool.map(lambda request: asker.ask(request, on_miss=request.on_miss), requests))
    asker.close()
    return replies


def expected_answers(url: str, replies: Sequence[Reply], pictures: int) -> dict[tuple[Question, bool], str]:
    """Ask a quiet server for each answer alone, from contexts or from whole images as it came.

    Args:
        url: the server's; nobody else may use it.
        replies: whose answers are wanted.
        pictures: number of pictures.
    """
    asker = Asker(url)
    for picture in range(pictures):
        asker.prepare(picture)
    expected: dict[tuple[Question, bool], str] = {}
    for question, joined in {(reply.request.question, reply.joined) for reply in replies if not reply.error}:
        request = Request(question, (joined,) * len(question.pictures), "full")
        reply = asker.ask(request, cache="use" if joined else "bypass")
        if reply.error or reply.joined != joined:
            sys.exit(f"the quiet server did not answer as asked: {reply}")
        expected[question, joined] = reply.text
    asker.close()
    return expected


class JoinsResult(NamedTuple):
    """The replies of a run, and the answers given alone."""

    replies: list[Reply]
    expected: Mapping[tuple[Question, bool], str]

    @property
    def bad(self) -> list[Reply]:
        """The replies that are errors, or other answers."""
        return [
            reply
            for reply in self.replies
            if reply.error or reply.text != self.expected[reply.request.question, reply.joined]
        ]


def figures(result: JoinsResult) -> dict[str, Any]:
    """Return what a run has shown."""
    replies = result.replies
    right = [reply for reply in replies if not reply.error]
    counts = Counter(reply.cache for reply in right)
    sizes = Counter(len(reply.request.question.pictures) for reply in right)
    texts = Counter(reply.text for reply in right)
    return {
        "questions": len(replies),
        "from joined contexts": sum(reply.joined for reply in right),
        "from whole images": sum(not reply.joined for reply in right),
        "wrong": sum(not reply.error for reply in result.bad),
        "failed": len(replies) - len(right),
        "hits": counts["hit"],
        "questions by number of images": dict(sorted(sizes.items())),
        "different answers": len(texts),
        "share of the most frequent answer": round(max(texts.values(), default=0) / max(1, len(right)), 3),
        "p50_ms": round(1000 * statistics.median(reply.seconds for reply in replies)),
    }


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = command.parser("joins", __doc__, quick="two dozen questions")
    parser.add_argument("--seed", type=int, default=0, help="of the conversations [%(default)s]")
    parser.add_argument("options", nargs="*", help="of `lookonce serve`, behind --, as in `-- --engine vllm`")
    arguments = parser.parse_args(args)
    plan, options = QUICK if arguments.quick else Plan(), arguments.options
    requests = plan_requests(plan, random.Random(arguments.seed))
    with LookonceServer(*options) as server:
        replies = send_all(server.url, requests)
    with LookonceServer(*options) as quiet:
        result = JoinsResult(replies, expected_answers(quiet.url, replies, plan.pictures))
    for name, value in figures(result).items():
        print(f"{name}: {value}")
    for reply in result.bad[:SHOWN]:
        print(f"bad: {reply}; alone: {result.expected.get((reply.request.question, reply.joined))!r}")
    command.write_json(arguments.json, figures(result))
    return 1 if result.bad else 0


if __name__ == "__main__":
    command.run(main)
