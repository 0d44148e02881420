"""What each image is asked, and which answers count: known ones, or those that the full pass gives."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from lookonce_evaluation.dataset import Case
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.pictures import pictures
from lookonce_evaluation.subject import Prefix, Subject
from lookonce_server.engines.text_stream import end_ids
from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import ImageLimits, decode_image

QUESTIONS = (
    "What is the main thing in the picture? Answer with one word.",
    "What is in the background? Answer with a few words.",
    "Which color covers most of the picture? Answer with one word.",
    "How many people are in the picture? Answer with a number.",
    "What is at the left of the picture? Answer with a few words.",
    "What is at the right of the picture? Answer with a few words.",
    "Is there any text in the picture? Answer yes or no.",
    "Was the picture taken indoors or outdoors? Answer with one word.",
)
"""What can be asked about any picture, with short answers: long ones differ soon without being worse."""
ANSWER_TOKENS = 32


class Asked(NamedTuple):
    """An image with its questions, answered by the full pass."""

    image: Image.Image
    questions: list[list[int]]  # as they follow a context, token ids
    answers: list[list[int]]  # that count as right, token ids, the end token included where the answer ends
    columns: list[str]  # of each question, "kind/category": shares are macro means over both
    right: list[bool]  # whether the full pass gave it
    first: Tensor  # [questions, vocabulary], logits of the full pass's first tokens
    prefix: Prefix  # what the full pass stands on


class Task(Protocol):
    """Images and what they are asked."""

    measure: str  # what the shares are of, for people
    identity: Any  # JSON: what the answers depend on, beside the checkpoint
    names: Sequence[str]  # of the images

    def ask(self, subject: Subject, name: str) -> Asked:
        """The full pass's answers about one of them."""


class Labelled:
    """Questions whose answers are known: scenes, and any data set's cases.

    Args:
        cases: the images with their questions.
        identity: which data set it is, JSON.
    """

    measure = "mean of ACC and exact answers to open questions, over categories"

    def __init__(self, cases: Sequence[Case], identity: Any) -> None:
        self._cases = {case.name: case for case in cases}
        self.names: Sequence[str] = list(self._cases)
        self.identity: Any = identity

    def ask(self, subject: Subject, name: str) -> Asked:
        """See `Task`."""
        case = self._cases[name]
        graded, prefix = subject.full_pass(case)
        columns = [f"acc/{category}" for category in case.pairs for _ in range(2)]
        columns += [f"open/{category}" for category in case.open]
        questions = [subject.grader.after_context(q) for q in case.questions]
        answers = [subject.grader.answer(q) for q in case.questions]
        return Asked(case.image, questions, answers, columns, graded.right, graded.first, prefix)


class Agreement:
    """Pictures of which nothing is known: what the full pass answers, token for token, counts as right.

    Args:
        folder: of pictures.
        count: most of them; drawn, always the same ones.
        questions: asked about each.

    Raises:
        EvaluationError: there are no pictures.
    """

    measure = "answers that are the full pass's, token for token"

    def __init__(self, folder: Path, count: int, questions: Sequence[str] = QUESTIONS) -> None:
        found = pictures(folder)
        drawn = random.Random(0).sample(found, min(count, len(found)))
        self._paths = {path.name: path for path in drawn}
        self.names: Sequence[str] = list(self._paths)
        self._questions = tuple(questions)
        content = hashlib.blake2b(b"".join(_digest(path) for path in drawn), digest_size=16).hexdigest()
        self.identity: Any = {"pictures": content, "questions": list(questions), "answer_tokens": ANSWER_TOKENS}

    def ask(self, subject: Subject, name: str) -> Asked:
        """See `Task`."""
        image = _read(self._paths[name])
        prefix = subject.prefix(image)
        said = [_answer(subject, prefix, question) for question in self._questions]
        questions = [subject.grader.question_after_context(question) for question in self._questions]
        columns = [f"agreement/{i}" for i in range(len(questions))]
        first = torch.stack([logits for _, logits in said])
        return Asked(image, questions, [ids for ids, _ in said], columns, [True] * len(said), first, prefix)


def _answer(subject: Subject, prefix: Prefix, question: str) -> tuple[list[int], Tensor]:
    """What the full pass says, greedily, the end token included, and the logits of its first token."""
    runner = subject.runner
    ends = end_ids(runner.model.generation_config, subject.prompts.tokenizer)
    ids = torch.tensor([subject.after_image(question)])
    state = runner.extend(runner.cache_of(prefix.keys, prefix.values), prefix.next_position, ids)
    first, said = state.logits, [int(state.logits.argmax())]
    while said[-1] not in ends and len(said) < ANSWER_TOKENS:
        state = runner.extend(state.cache, state.next_position, torch.tensor([said[-1:]]))
        said.append(int(state.logits.argmax()))
    return said, first


def _read(path: Path) -> Image.Image:
    """The picture as the server sees it."""
    try:
        return decode_image(path.read_bytes(), ImageLimits(), "image")
    except (InvalidImageError, OSError) as error:
        raise EvaluationError(f"{path}: {error}") from None


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
