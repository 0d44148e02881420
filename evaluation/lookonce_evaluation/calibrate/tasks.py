"""The calibration's questions, with known answers or the full pass's own."""

import hashlib
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lookonce_evaluation.data.folder import pictures, read_picture
from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.methods import Context, ImageRun
from lookonce_evaluation.metrics.grading import full_pass, grade
from lookonce_evaluation.model import EvalModel, PreparedCache
from lookonce_evaluation.runs import JSON

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


class Answered(NamedTuple):
    """An image with its questions, answered by the full pass."""

    case: Case
    prompts: list[list[int]]  # the questions as they follow a context, token ids
    answers: list[list[int]]  # that count as right, token ids, the end token included where the answer ends
    columns: list[str]  # of each question, "kind/category": shares are macro means over both
    right: list[bool]  # whether the full pass gave it
    first: Tensor  # [questions, vocabulary], logits of the full pass's first tokens
    full: PreparedCache  # what the full pass stands on


class Labelled:
    """Questions with known answers: scenes, and any data set's cases.

    `measure` says for people what the shares are of, and `identity`, JSON, what the answers depend on.
    """

    measure = "mean of ACC and exact answers to open questions, over categories"

    def __init__(self, cases: Sequence[Case], identity: Any) -> None:
        self._cases = {case.name: case for case in cases}
        self.names = list(self._cases)
        self.identity = identity

    def ask(self, model: EvalModel, name: str) -> Answered:
        """Answer the questions about an image by the full pass."""
        case = self._cases[name]
        graded, cache = full_pass(model, case)
        columns = [f"acc/{category}" for category in case.pairs for _ in range(2)]
        columns += [f"open/{category}" for category in case.open]
        prompts = [model.after_context(question.text) for question in case.questions]
        answers = [model.answer_ids(question.answer) for question in case.questions]
        return Answered(case, prompts, answers, columns, graded.right, graded.first, cache)


class Agreement:
    """Pictures without known answers: the full pass's own count as right.

    Raises:
        EvaluationError: there are no pictures.
    """

    measure = "answers that are the full pass's, token for token"

    def __init__(self, folder: Path, count: int, questions: Sequence[str] = QUESTIONS) -> None:
        paths = pictures(folder)
        drawn = random.Random(0).sample(paths, min(count, len(paths)))
        self._paths = {path.name: path for path in drawn}
        self.names = list(self._paths)
        self._questions = tuple(questions)
        digests = b"".join(hashlib.blake2b(path.read_bytes()).digest() for path in drawn)
        content = hashlib.blake2b(digests, digest_size=16).hexdigest()
        self.identity = {"pictures": content, "questions": list(questions), "answer_tokens": ANSWER_TOKENS}

    def ask(self, model: EvalModel, name: str) -> Answered:
        """Answer the questions about a picture by the full pass."""
        case = Case(name, read_picture(self._paths[name]), {}, {})
        cache = model.prefix(case.image)
        prompts, answers, first = [], [], []
        for question in self._questions:
            step = model.ask(cache, model.after_image(question))
            (tokens,) = model.decode(step, ANSWER_TOKENS)
            prompts.append(model.after_context(question))
            answers.append(tokens if len(tokens) == ANSWER_TOKENS else [*tokens, model.end_id])
            first.append(step.logits[0, -1])
        columns = [f"agreement/{i}" for i in range(len(prompts))]
        return Answered(case, prompts, answers, columns, [True] * len(prompts), torch.stack(first), cache)


Task = Labelled | Agreement


def measure(model: EvalModel, answered: Answered, methods: Sequence[Context]) -> JSON:
    """Measure one image's answers by every method.

    Returns:
        `columns` of the questions; `full`, which of them the full pass has right, as a text of 0 and 1; `ways`, by
        `key`, the same and the mean KL divergence of the first tokens from the full pass's; `sizes`, by retention and
        of the "full" pass, tokens and bytes of keys and values.
    """
    run = ImageRun(model, answered.case)
    seen: dict[tuple[int, ...], tuple[str, float]] = {}
    sizes = {"full": [answered.full.tokens, answered.full.bytes]}
    ways = {}
    for method in methods:
        kept = method.kept(run)
        tokens = (len(kept), *kept.flatten().tolist())
        if tokens not in seen:  # methods often agree, most of all on few tokens
            cache = run.described.context(kept)._replace(prompts=answered.prompts)
            graded = grade(model, cache, answered.answers)
            full, ours = (F.log_softmax(logits.float(), -1).cpu() for logits in (answered.first, graded.first))
            distance = float(F.kl_div(ours, full, log_target=True, reduction="batchmean").clamp_min(0))
            seen[tokens] = (_bits(graded.right), round(distance, 6))
            sizes[f"{method.retention:g}"] = [cache.tokens, cache.bytes]
        ways[key(method)] = list(seen[tokens])
    return {"columns": answered.columns, "full": _bits(answered.right), "ways": ways, "sizes": sizes}


def key(method: Context) -> str:
    """Name a method, as in "2-6/generated/coverage@0.05"."""
    return f"{method.name}@{method.retention:g}"


def _bits(right: Iterable[bool]) -> str:
    return "".join("01"[verdict] for verdict in right)
