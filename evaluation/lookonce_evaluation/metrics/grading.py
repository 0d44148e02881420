"""Grading answers: exactly, in one forward pass, or by the first word, as MME.

An answer is exactly right when greedy decoding gives it, its end included. Greedy decoding gives an answer exactly
when, with that answer fed in, every one of its tokens is the most likely next one: so one pass over question and answer
grades it, and all questions of an image share a batch. A test holds this to the engine's own answers.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.methods import FullPass, ImageRun
from lookonce_evaluation.model import EvalModel, PreparedCache
from lookonce_scenes.questions import Question

FIRST_WORD_TOKENS = 8
"""In which an answer to a yes/no question has to say it."""
_FIRST_WORD = re.compile(r"[\W_]*([^\W_]+)")


class Graded(NamedTuple):
    """The grades of some questions."""

    right: list[bool]  # whether each was answered exactly
    first: Tensor  # [questions, vocabulary], the logits of each answer's first token
    margins: list[float]  # the least of each answer's tokens, in nats, up to the first one that is not the right one


def grade(model: EvalModel, cache: PreparedCache, answers: Sequence[list[int]]) -> Graded:
    """Grade each of the cache's prompts by its right answer, token ids with the end."""
    rows = list(zip(cache.prompts, answers, strict=True))
    # An answer's last token is expected, and never looked from.
    logits = model.extend_padded(cache, [prompt + answer[:-1] for prompt, answer in rows])
    right, first, margins = [], [], []
    for row, (prompt, answer) in zip(logits, rows, strict=True):
        logits_of_answer = row[len(prompt) - 1 : len(prompt) - 1 + len(answer)]
        same = model.with_one_end(logits_of_answer.argmax(-1)).cpu() == torch.tensor(answer)
        right.append(bool(same.all()))
        first.append(logits_of_answer[0])
        # What comes after a wrong token is not the model's own answer.
        said = logits_of_answer[: 1 + int(same.cumprod(0).sum())]
        best, second = said.float().topk(2).values.unbind(-1)
        margins.append(float((best - second).min()))
    return Graded(right, torch.stack(first), margins)


def grade_exactly(model: EvalModel, cache: PreparedCache, questions: Sequence[Question]) -> Graded:
    """Grade questions by their own answers."""
    return grade(model, cache, [model.answer_ids(question.answer) for question in questions])


def full_pass(model: EvalModel, case: Case) -> tuple[Graded, PreparedCache]:
    """Grade a case's questions asked directly."""
    cache = FullPass().prepare(ImageRun(model, case))
    return grade_exactly(model, cache, case.questions), cache


def verdict(text: str) -> str | None:
    """Read an answer's first word: "Yes", "No" or None."""
    word = _FIRST_WORD.match(text)
    answer = word[1].capitalize() if word else ""
    return answer if answer in ("Yes", "No") else None


def grade_first_words(model: EvalModel, cache: PreparedCache, questions: Sequence[Question]) -> list[bool]:
    """Grade each answer by how it begins, whatever the model says after that."""

    def has_word(tokens: list[int]) -> bool:
        text = model.text(tokens)
        word = _FIRST_WORD.match(text)
        return bool(word and word.end() < len(text))

    right = []
    for prompt, question in zip(cache.prompts, questions, strict=True):
        (tokens,) = model.decode(model.ask(cache, prompt), FIRST_WORD_TOKENS, is_enough=has_word)
        right.append(verdict(model.text(tokens)) == question.answer)
    return right
