"""How sure a model is of what it says from a context: the signals by which a wrong answer might be told.

Of every signal more means surer. Those of the first token need one forward pass and are there before anything is said;
those of the whole answer are there at its end; attention needs the model's insides, which no log-probability tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.batching import expanded, extend
from lookonce_evaluation.describing import Described
from lookonce_evaluation.subject import Subject
from lookonce_pruning import ImageScores
from lookonce_pruning.attention import observed
from lookonce_pruning.capture import attention_rows
from lookonce_scenes.questions import Question

FIRST_TOKEN = ("margin", "probability", "entropy")
WHOLE_ANSWER = ("least margin", "least probability")
ATTENTION = ("attention, early", "attention, middle", "attention, late")
SIGNALS = (*FIRST_TOKEN, *WHOLE_ANSWER, *ATTENTION, "scores kept")


class Said(NamedTuple):
    """What a model said to some questions about one image, decoded greedily."""

    right: list[bool]  # whether each answer was exactly the right one
    signals: dict[str, list[float]]  # by name, one number a question
    prompt_tokens: list[int]  # run for each question, its answer left out


class ImageLooks:
    """An `StoreObserver`: how much attention the last token of each prompt in a batch pays the image's tokens.

    Args:
        lengths: tokens of each prompt, those that were in the cache before left out.
        columns: `[1 or layers, image tokens]`, where they stand.
    """

    def __init__(self, lengths: Sequence[int], columns: Tensor) -> None:
        self._lengths = lengths
        self._columns = columns
        self.shares: list[list[float]] = []  # by layer, by prompt

    def observe(
        self, layer: int, query: Tensor, key: Tensor, attention_mask: Tensor | None, scaling: float | None
    ) -> Tensor | None:
        """See `attention.StoreObserver`."""
        past = key.shape[2] - query.shape[2]
        columns = self._columns[layer if len(self._columns) > 1 else 0]
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        shares = []
        for i, length in enumerate(self._lengths):
            row, end = query[i, :, length - 1 : length], past + length
            shares.append(float(attention_rows(row, key[i, :, :end], end - 1, columns, scale).sum()))
        self.shares.append(shares)
        return attention_mask


def answers(
    subject: Subject, questions: list[Question], described: Described, kept: Tensor, scores: ImageScores
) -> Said:
    """How the questions are answered from the context that keeps these image tokens, and how surely.

    Args:
        subject: the checkpoint.
        questions: about one image.
        described: its describe pass.
        kept: `[1 or layers, kept]`, image tokens.
        scores: by which they were chosen.
    """
    packed = described.packed(kept, subject.runner.inv_freq)
    prompts = [subject.grader.after_context(question) for question in questions]
    wanted = [subject.grader.answer(question) for question in questions]
    # Of each image token kept: how many tokens of text stand before it, and how many kept ones.
    columns = described.prompt.image_positions[kept] - kept + torch.arange(kept.shape[1])
    looks = ImageLooks([len(prompt) for prompt in prompts], columns)
    with observed(subject.runner.model.config.get_text_config(), looks):
        steps = [_next_logprobs(subject, packed.keys, packed.values, prompts)]
    said = [[int(row.argmax())] for row in steps[0]]
    least = [_margin_and_probability(row) for row in steps[0]]
    for _ in range(max(map(len, wanted)) - 1):
        going = [i for i, tokens in enumerate(said) if tokens[-1] != subject.prompts.tokenizer.eos_token_id]
        if not going:
            break
        rows = _next_logprobs(subject, packed.keys, packed.values, [prompts[i] + said[i] for i in going])
        for i, row in zip(going, rows, strict=True):
            said[i].append(int(row.argmax()))
            least[i] = torch.minimum(least[i], _margin_and_probability(row))
    right = [tokens == answer for tokens, answer in zip(said, wanted, strict=True)]
    signals = _first_token(steps[0]) | {name: [float(one[j]) for one in least] for j, name in enumerate(WHOLE_ANSWER)}
    signals |= _attention(torch.tensor(looks.shares)) | {"scores kept": [_kept_share(scores, kept)] * len(questions)}
    return Said(right, signals, [len(prompt) for prompt in prompts])


def _next_logprobs(subject: Subject, keys: Tensor, values: Tensor, rows: list[list[int]]) -> Tensor:
    """Log-softmax of each row's next token, `[rows, vocabulary]`, float32."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    cache = expanded(subject.runner, keys, values, len(rows))
    logits = extend(subject.runner, cache, keys.shape[2], ids).logits
    last = torch.stack([logits[i, len(row) - 1] for i, row in enumerate(rows)])
    return last.float().cpu().log_softmax(-1)


def _margin_and_probability(logprobs: Tensor) -> Tensor:
    """Of one token, `[2]`: by how much the likeliest leads, in log-probability, and its probability."""
    first, second = logprobs.topk(2).values
    return torch.stack([first - second, first.exp()])


def _first_token(logprobs: Tensor) -> dict[str, list[float]]:
    margins = torch.stack([_margin_and_probability(row) for row in logprobs])
    entropy = (logprobs.exp() * logprobs).sum(-1)  # negative: more of it means surer
    return dict(zip(FIRST_TOKEN, (margins[:, 0].tolist(), margins[:, 1].tolist(), entropy.tolist()), strict=True))


def _attention(shares: Tensor) -> dict[str, list[float]]:
    """Means over each third of the layers of `shares` `[layers, questions]`."""
    thirds = torch.tensor_split(shares, 3)
    return {name: third.mean(0).tolist() for name, third in zip(ATTENTION, thirds, strict=True) if len(third)}


def _kept_share(scores: ImageScores, kept: Tensor) -> float:
    """The share of the describe pass's attention to the image that went to what is kept."""
    drawn = scores.values.mean(0)
    return float(drawn[kept[0]].sum() / drawn.sum())
