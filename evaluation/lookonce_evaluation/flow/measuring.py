"""What is measured of an image, as records that tables are made of."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from lookonce_evaluation.dataset import Case
from lookonce_evaluation.flow.answering import answers
from lookonce_evaluation.flow.asking import Asked
from lookonce_evaluation.flow.describing import descriptions
from lookonce_evaluation.flow.layers import layer_sets, windows
from lookonce_evaluation.flow.trials import FLOWS, KINDS, Trial, trials
from lookonce_evaluation.judge import Judge, truth
from lookonce_evaluation.judge.counting import verdict
from lookonce_evaluation.subject import Subject

Record = Any
"""Of JSON."""


class Plan(NamedTuple):
    """What is knocked out."""

    kinds: list[Trial]  # of descriptions and answers
    flows: list[Trial]  # of answers alone

    @classmethod
    def of(cls, num_layers: int, width: int, step: int = 1) -> "Plan":
        """For a model: the kinds in all sets of layers, the flows in the sliding window."""
        return cls(trials(KINDS, layer_sets(num_layers, width, step)), trials(FLOWS, windows(num_layers, width, step)))

    @property
    def asking(self) -> list[Trial]:
        """All of it."""
        return self.kinds + self.flows


def describe(subject: Subject, judge: Judge, case: Case, plan: Plan, *, rows: int) -> Record:
    """The descriptions, the ordinary one first, and the verdict on each of them."""
    texts = descriptions(subject, case.image, plan.kinds, rows=rows)
    original, there = judge.objects(texts[0]), truth(case.scene) if case.scene else None
    # Many trials say the same.
    verdicts = {text: verdict(judge, text, original, there) for text in dict.fromkeys(texts)}
    return {"texts": texts, "verdicts": verdicts}


def ask(subject: Subject, questions: Sequence[Asked], plan: Plan, *, rows: int) -> Record:
    """Each question's `Answer` with nothing knocked out, and in each trial; null where a trial has no tokens."""
    if not questions:
        return []
    prefix = subject.prefix(questions[0].image)
    return [
        {
            "category": asked.category,
            "question": asked.text,
            "answer": asked.answer,
            "answers": answers(subject, prefix, asked, plan.asking, rows=rows),
        }
        for asked in questions
    ]
