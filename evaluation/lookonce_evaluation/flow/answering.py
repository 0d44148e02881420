"""Answers to a question with attention knocked out, many at once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from lookonce_evaluation.batching import expanded, extend
from lookonce_evaluation.flow.asking import Asked
from lookonce_evaluation.flow.groups import question_groups
from lookonce_evaluation.flow.trials import Trial
from lookonce_evaluation.subject import Prefix, Subject
from lookonce_pruning import Knockout
from lookonce_server.engines.conversation import Conversation, Turn


class Answer(NamedTuple):
    """What became of an answer."""

    probability: float  # of the token that begins the answer where nothing is knocked out
    first: bool  # whether greedy decoding begins as the right answer does
    right: bool  # whether it gives the right answer exactly, end token included


def answers(
    subject: Subject, prefix: Prefix, asked: Asked, trials: Sequence[Trial], *, rows: int = 64
) -> list[Answer | None]:
    """The answer to a question asked directly, and what becomes of it in each trial; None where a trial has no tokens.

    The right answer is fed in: decoding gives it exactly when each of its tokens is the most likely next one.

    Args:
        subject: the checkpoint.
        prefix: of the question's image.
        asked: the question.
        trials: what is knocked out.
        rows: most rows of a batch.
    """
    tokenizer = subject.prompts.tokenizer
    prompt = subject.prompts.full(Conversation((Turn("user", asked.text, has_image=True),)), asked.image)
    groups = question_groups(subject.prompts, prompt, asked.text, asked.shown)
    answer = [*tokenizer.encode(asked.answer, add_special_tokens=False), tokenizer.eos_token_id]
    ids = torch.cat([prompt.inputs["input_ids"][0, groups.query.start :], torch.tensor(answer)])
    blocked = [trial.blocked(groups) for trial in trials]
    cases = [[], *(one for one in blocked if one is not None)]
    found = []
    for part in (cases[first : first + rows] for first in range(0, len(cases), rows)):
        cache = expanded(subject.runner, prefix.keys, prefix.values, len(part))
        with Knockout(subject.runner.model, part):
            logits = extend(subject.runner, cache, prefix.next_position, ids.expand(len(part), -1)).logits
        found.append(logits[:, -len(answer) - 1 : -1].cpu())
    logits = torch.cat(found)  # [cases, tokens of the answer, vocabulary]
    said = logits.argmax(-1)
    probabilities = logits[:, 0].float().softmax(-1)[:, said[0, 0]]
    right = said == torch.tensor(answer)
    made = iter(map(Answer, probabilities.tolist(), right[:, 0].tolist(), right.all(1).tolist()))
    return [next(made), *(None if one is None else next(made) for one in blocked)]
