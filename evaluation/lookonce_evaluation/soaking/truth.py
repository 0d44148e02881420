"""What is right: each picture's answers, taken from a quiet server before the load begins."""

import io
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from PIL.PngImagePlugin import PngInfo

import lookonce
from lookonce_evaluation.data.scenes import Case, held_out
from lookonce_scenes.questions import DESCRIBE_PROMPTS

MAX_TOKENS = 48
FIRST_SEED = 600_000_000  # none that another evaluation uses


class Right(NamedTuple):
    """The answers to one question about one picture."""

    full: str  # by the full pass
    context: str  # from the compressed context

    def is_met_by(self, answer: lookonce.Answer) -> bool:
        """Whether an answer is the one of the way it says it came."""
        return answer.text == (self.context if answer.context_tokens else self.full)


@dataclass(frozen=True)
class Picture:
    """A picture that may be asked about.

    Attributes:
        case: what is drawn.
        answers: by question.
    """

    case: Case
    answers: dict[str, Right]

    def file(self) -> bytes:
        """The picture as an image file no server has seen: the same pixels, and a comment of its own.

        Servers tell images by their bytes, so that this is a new image whose right answers are known.
        """
        return png(self.case)


def png(case: Case) -> bytes:
    """See `Picture.file`."""
    comment = PngInfo()
    comment.add_text("Comment", secrets.token_hex(16))
    file = io.BytesIO()
    # A copy, since Pillow keeps what it is to write on the image while it saves: with one image, threads that save at
    # once lose their comments, or write each other's, and two "new" images are one.
    case.image.copy().save(file, "PNG", pnginfo=comment)
    return file.getvalue()


def recorded(url: str, pictures: int, questions: int) -> list[Picture]:
    """The pictures and their answers, from the server at `url`, which nobody else asks.

    Args:
        url: of a server.
        pictures: how many.
        questions: about each, the first to describe it; `alike` tells how well they tell pictures apart.

    Raises:
        SystemExit: an answer did not come the way it was asked for.
    """
    with lookonce.Client(url) as client:
        return [_recorded(client, case, questions) for case in held_out(pictures, FIRST_SEED)]


def alike(pictures: list[Picture]) -> float:
    """The chance that the answer about another picture to the same question, the same way, would pass for right."""
    chances = list(_chances(pictures))
    return sum(chances) / len(chances)


def _chances(pictures: list[Picture]) -> Iterator[float]:
    for question in {question for picture in pictures for question in picture.answers}:
        asked = [picture.answers[question] for picture in pictures if question in picture.answers]
        for way in ("full", "context"):
            counts = Counter(getattr(right, way) for right in asked)
            others = len(asked) - 1
            yield from ((counts[getattr(right, way)] - 1) / others for right in asked if others)


def _recorded(client: lookonce.Client, case: Case, questions: int) -> Picture:
    open_questions = [question.text for question in case.open.values()]
    described = client.image(png(case))
    described.prepare()
    answers = {}
    for question in [DESCRIBE_PROMPTS[1], *open_questions][:questions]:
        full = client.image(png(case)).ask(question, max_tokens=MAX_TOKENS)
        context = described.ask(question, max_tokens=MAX_TOKENS)
        if full.hit or full.context_tokens or not context.hit:
            raise SystemExit("the quiet server did not answer once by the full pass and once from the context")
        answers[question] = Right(full.text, context.text)
    return Picture(case, answers)
