"""Grading many questions about one image in one forward pass.

An answer counts as right when greedy decoding gives it exactly, end token included. Greedy decoding gives an answer
exactly when, with that answer fed in, every one of its tokens is the most likely next one: so one pass over question
and answer grades it, and all questions of an image share a batch. A test holds this to the engine's own answers.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.batching import expanded, extend
from lookonce_scenes.questions import Question
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prompts import PromptRenderer
from lookonce_server.engines.transformers.model import ModelRunner


class Graded(NamedTuple):
    """What a model made of some questions."""

    right: list[bool]  # whether each was answered exactly
    first: Tensor  # [questions, vocabulary], the logits of each answer's first token


class Grader:
    """Grades answers of one model.

    Args:
        runner: runs the model.
        prompts: renders its prompts.
        describe_prompt: the turn that contexts end with.
    """

    def __init__(self, runner: ModelRunner, prompts: PromptRenderer, describe_prompt: str) -> None:
        self._runner = runner
        self._prompts = prompts
        self._describe_prompt = describe_prompt

    def after_context(self, question: Question) -> list[int]:
        """Token ids of a question as it follows a context."""
        return self.question_after_context(question.text)

    def question_after_context(self, text: str) -> list[int]:
        """The same of a question that is no more than its text."""
        asked = Conversation((Turn("user", text, has_image=True),))
        ids: list[int] = self._prompts.continuation(self._describe_prompt, asked)[0].tolist()
        return ids

    def grade(
        self, keys: Tensor, values: Tensor, next_position: int, prompts: list[list[int]], questions: list[Question]
    ) -> Graded:
        """How each question is answered on top of keys and values `[layers, kv_heads, tokens, head_dim]`.

        Args:
            keys: after RoPE.
            values: like keys.
            next_position: RoPE position of each prompt's first token.
            prompts: each question's token ids.
            questions: the questions, for their answers.
        """
        return self.judge(keys, values, next_position, prompts, [self.answer(question) for question in questions])

    def judge(
        self, keys: Tensor, values: Tensor, next_position: int, prompts: list[list[int]], answers: list[list[int]]
    ) -> Graded:
        """The same for answers that are given as token ids, with what ends them."""
        rows = list(zip(prompts, answers, strict=True))
        inputs = [prompt + answer[:-1] for prompt, answer in rows]  # the last one is expected, and never looked from
        ids = torch.zeros(len(rows), max(map(len, inputs)), dtype=torch.long)
        for i, one in enumerate(inputs):
            ids[i, : len(one)] = torch.tensor(one)
        cache = expanded(self._runner, keys, values, len(rows))
        logits = extend(self._runner, cache, next_position, ids).logits
        said = [
            logits[i, len(prompt) - 1 : len(prompt) - 1 + len(answer)].argmax(-1).tolist()
            for i, (prompt, answer) in enumerate(rows)
        ]
        right = [tokens == answer for tokens, (_, answer) in zip(said, rows, strict=True)]
        return Graded(right, torch.stack([logits[i, len(prompt) - 1] for i, (prompt, _) in enumerate(rows)]))

    def answer(self, question: Question) -> list[int]:
        """Token ids of a question's right answer, end token included."""
        tokenizer = self._prompts.tokenizer
        return [*tokenizer.encode(question.answer, add_special_tokens=False), tokenizer.eos_token_id]
