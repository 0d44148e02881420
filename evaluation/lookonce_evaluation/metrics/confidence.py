"""How sure a model is of what it says from a context: the signals by which a wrong answer might be told.

Of every signal more means surer. Those of the first token need one forward pass and are there before anything is said;
those of the whole answer are there at its end; attention needs the model's insides, which no log-probability tells.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.describe import DescribePass
from lookonce_evaluation.model import EvalModel
from lookonce_pruning import ImageScores
from lookonce_pruning.attention import observed
from lookonce_pruning.capture import attention_rows
from lookonce_scenes.questions import Question

FIRST_TOKEN = ("margin", "probability", "entropy")
WHOLE_ANSWER = ("least margin", "least probability")
ATTENTION = ("attention, early", "attention, middle", "attention, late")
SIGNALS = (*FIRST_TOKEN, *WHOLE_ANSWER, *ATTENTION, "scores kept")


class Answers(NamedTuple):
    """What a model said to some questions about one image, decoded greedily."""

    right: list[bool]  # whether each answer was exactly the right one
    signals: dict[str, list[float]]  # by name, one number a question
    prompt_tokens: list[int]  # run for each question, its answer left out


class ImageAttention:
    """An `StoreObserver`: how much attention a prompt's last token pays the image's tokens.

    Args:
        columns: `[1 or layers, image tokens]`, where they stand.
    """

    def __init__(self, columns: Tensor) -> None:
        self._columns = columns
        self.shares: list[float] = []  # by layer

    def observe(
        self, layer: int, query: Tensor, key: Tensor, attention_mask: Tensor | None, scaling: float | None
    ) -> Tensor | None:
        """See `attention.StoreObserver`."""
        columns = self._columns[layer if len(self._columns) > 1 else 0]
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        self.shares.append(float(attention_rows(query[0, :, -1:], key[0], key.shape[2] - 1, columns, scale).sum()))
        return attention_mask


def answer_questions(
    model: EvalModel, questions: list[Question], described: DescribePass, kept: Tensor, scores: ImageScores
) -> Answers:
    """Answer questions from the context that keeps these image tokens, and tell how surely.

    Args:
        model: the checkpoint.
        questions: about one image.
        described: its describe pass.
        kept: `[1 or layers, kept]`, image tokens.
        scores: by which they were chosen.
    """
    context = described.context(kept)
    answers = [model.answer_ids(question.answer) for question in questions]
    longest = max(map(len, answers))
    # Of each image token kept: how many tokens of text stand before it, and how many kept ones.
    columns = described.prompt.image_positions[kept] - kept + torch.arange(kept.shape[1])
    drawn = scores.values.mean(0)
    share = float(drawn[kept[0]].sum() / drawn.sum())
    result = Answers([], {}, [])
    for question, answer in zip(questions, answers, strict=True):
        prompt, attention = model.after_context(question.text), ImageAttention(columns)
        with observed(model.runner.model.config.get_text_config(), attention):
            step = model.ask(context, prompt)
        logits: list[Tensor] = []
        (tokens,) = model.decode(step, longest, watch=logits.append)
        result.right.append([*tokens, model.end_id] == answer)
        result.prompt_tokens.append(len(prompt))
        signals = _signals(torch.cat(logits).float().cpu().log_softmax(-1))
        thirds = zip(ATTENTION, torch.tensor(attention.shares).tensor_split(3), strict=True)  # of the layers
        signals |= {name: float(third.mean()) for name, third in thirds if len(third)} | {"scores kept": share}
        for name, value in signals.items():
            result.signals.setdefault(name, []).append(value)
    return result


def _signals(logprobs: Tensor) -> dict[str, float]:
    """Of an answer's tokens `[tokens, vocabulary]`: of the first one, and the least of all."""
    first, second = logprobs.topk(2).values.unbind(-1)
    margins, probabilities = first - second, first.exp()
    negative_entropy = (logprobs[0].exp() * logprobs[0]).sum()  # more of it means surer
    values = (margins[0], probabilities[0], negative_entropy, margins.min(), probabilities.min())
    return dict(zip((*FIRST_TOKEN, *WHOLE_ANSWER), map(float, values), strict=True))
