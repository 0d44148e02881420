"""Answers to yes/no questions judged by how they begin, as MME judges them, whatever the model says after that."""

import re
from collections.abc import Sequence

import torch

from lookonce_evaluation.describing import decode
from lookonce_evaluation.subject import Subject
from lookonce_evaluation.ways import Ready
from lookonce_scenes.questions import Question

MOST_TOKENS = 8
"""In which an answer has to say it."""
_FIRST_WORD = re.compile(r"[\W_]*([^\W_]+)")


def verdict(text: str) -> str | None:
    """ "Yes" or "No" where that is the first word, in any case and behind any punctuation."""
    word = _FIRST_WORD.match(text)
    said = word[1].capitalize() if word else ""
    return said if said in ("Yes", "No") else None


class YesNo:
    """Grades answers by their first word.

    Args:
        subject: the checkpoint.
    """

    def __init__(self, subject: Subject) -> None:
        self._runner = subject.runner
        self._tokenizer = subject.prompts.tokenizer

    def grade(self, ready: Ready, questions: Sequence[Question]) -> list[bool]:
        """Whether each question's answer begins with the expected word."""
        said = (self._said(ready, prompt) for prompt in ready.prompts)
        return [verdict(text) == question.answer for text, question in zip(said, questions, strict=True)]

    def _said(self, ready: Ready, prompt: list[int]) -> str:
        """The answer, decoded greedily up to the end of its first word."""
        cache = self._runner.cache_of(ready.keys, ready.values)
        state = self._runner.extend(cache, ready.next_position, torch.tensor([prompt]))
        _, said = decode(self._runner, state, self._tokenizer.eos_token_id, MOST_TOKENS, self._ended)
        return self._text(said)

    def _ended(self, said: list[int]) -> bool:
        text = self._text(said)
        word = _FIRST_WORD.match(text)
        return bool(word and word.end() < len(text))

    def _text(self, said: list[int]) -> str:
        text: str = self._tokenizer.decode(said, skip_special_tokens=True)
        return text
