"""Descriptions and answers with attention knocked out, many at once, as records that tables are made of."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image

from lookonce_evaluation.analysis.information_flow.questions import ImageQuestion
from lookonce_evaluation.analysis.information_flow.trials import (
    FLOWS,
    KINDS,
    Trial,
    describe_groups,
    layer_sets,
    question_groups,
    trials,
    windows,
)
from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.model import EvalModel, PreparedCache, about_image
from lookonce_evaluation.tasks.judge import Judge, verdict
from lookonce_pruning import Knockout

Record = Any
"""Of JSON."""


class Plan(NamedTuple):
    """What is knocked out."""

    kinds: list[Trial]  # of descriptions and answers
    flows: list[Trial]  # of answers alone

    @classmethod
    def of(cls, num_layers: int, width: int, step: int = 1) -> "Plan":
        """Plan for a model: the kinds in all sets of layers, the flows in the sliding window."""
        return cls(trials(KINDS, layer_sets(num_layers, width, step)), trials(FLOWS, windows(num_layers, width, step)))

    @property
    def asking(self) -> list[Trial]:
        """All of it."""
        return self.kinds + self.flows


class Answer(NamedTuple):
    """What became of an answer."""

    probability: float  # of the token that begins the answer where nothing is knocked out
    first: bool  # whether greedy decoding begins as the right answer does
    right: bool  # whether it gives the right answer exactly, end token included


def descriptions(model: EvalModel, image: Image.Image, plan: Sequence[Trial], *, rows: int = 64) -> list[str]:
    """Describe an image as ordinary, and in each trial.

    The prompt up to the image's end is run once: nothing is knocked out before it. From there on each trial is a row
    of a batch.
    """
    prompt = model.prompts.describe(model.describe_prompt, image)
    groups, prefix, room = describe_groups(prompt), model.prefix(image), model.describe_room(prompt)
    ids = prompt.inputs["input_ids"][0, groups.query.start :]
    cases = [[], *(trial.blocked(groups) or [] for trial in plan)]
    texts = []
    for part in (cases[first : first + rows] for first in range(0, len(cases), rows)):
        with Knockout(model.runner.model, part):
            step = model.extend(model.expand(prefix, len(part)), prefix.next_position, ids.expand(len(part), -1))
        texts += [model.text(tokens).strip() for tokens in model.decode(step, room, knockouts=part)]
    return texts


def answers(
    model: EvalModel, prefix: PreparedCache, question: ImageQuestion, plan: Sequence[Trial], *, rows: int = 64
) -> list[Answer | None]:
    """Answer a question asked directly, and in each trial; None where a trial has no tokens.

    The right answer is fed in: decoding gives it exactly when each of its tokens is the most likely next one.
    """
    prompt = model.prompts.full(about_image(question.text), question.image)
    groups = question_groups(model, prompt, question.text, question.shown)
    answer = model.answer_ids(question.answer)
    ids = torch.cat([prompt.inputs["input_ids"][0, groups.query.start :], torch.tensor(answer)])
    blocked = [trial.blocked(groups) for trial in plan]
    cases = [[], *(case for case in blocked if case is not None)]
    parts = []
    for part in (cases[first : first + rows] for first in range(0, len(cases), rows)):
        with Knockout(model.runner.model, part):
            step = model.extend(model.expand(prefix, len(part)), prefix.next_position, ids.expand(len(part), -1))
        parts.append(step.logits[:, -len(answer) - 1 : -1].cpu())
    logits = torch.cat(parts)  # [cases, tokens of the answer, vocabulary]
    likeliest = logits.argmax(-1)
    probabilities = logits[:, 0].float().softmax(-1)[:, likeliest[0, 0]]
    right = model.with_one_end(likeliest) == torch.tensor(answer)
    found = iter(map(Answer, probabilities.tolist(), right[:, 0].tolist(), right.all(1).tolist()))
    return [next(found), *(None if case is None else next(found) for case in blocked)]


def describe_record(model: EvalModel, judge: Judge, case: Case, plan: Plan, *, rows: int) -> Record:
    """Record the descriptions, the ordinary one first, and the verdict on each of them."""
    texts = descriptions(model, case.image, plan.kinds, rows=rows)
    original = judge.objects(texts[0])
    verdicts = {text: verdict(judge, text, original, case.objects) for text in dict.fromkeys(texts)}  # many are alike
    return {"texts": texts, "verdicts": verdicts}


def ask_record(model: EvalModel, questions: Sequence[ImageQuestion], plan: Plan, *, rows: int) -> Record:
    """Record each question's `Answer` with nothing knocked out, and in each trial; null where that has no tokens."""
    if not questions:
        return []
    prefix = model.prefix(questions[0].image)
    return [
        {
            "category": question.category,
            "question": question.text,
            "answer": question.answer,
            "answers": answers(model, prefix, question, plan.asking, rows=rows),
        }
        for question in questions
    ]
