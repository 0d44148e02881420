"""How a row's attention is divided among the kinds of token that it sees."""

from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.describing import Described

GROUPS = ("first", "system", "image", "query", "generated")
"""The sequence's first token, on which attention often rests for want of anything to look at (a sink); the other text
before the image's end; the image; the prompt's text after it; the description."""
ROWS = ("query", "generated")
"""Rows whose attention is divided, as `AttentionRecorder.scores` names them: the prompt's after the image; those that
generate the description, which are the last prompt position's and every generated token's."""
_ROWS_AT_ONCE = 16  # bounds what is in memory to [layers, 16, tokens]


class Shares(NamedTuple):
    """Means over rows; each sums to 1 over the groups."""

    attention: Tensor  # [layers, groups]
    even: Tensor  # [groups], had each row divided its attention evenly among the tokens it sees


def shares(described: Described, rows: str) -> Shares:
    """How the rows of one kind divide their attention."""
    prompt, total = described.prompt, described.prompt.tokens + len(described.said)
    start = int(prompt.image_positions[-1]) + 1 if rows == "query" else prompt.tokens - 1
    stop = prompt.tokens if rows == "query" else total
    groups = groups_of(prompt.image_positions, prompt.tokens, total)
    attention: Tensor | float = 0.0
    for first in range(start, stop, _ROWS_AT_ONCE):
        some = range(first, min(first + _ROWS_AT_ONCE, stop))
        weights = described.recorder.weights(some, torch.arange(some.stop)).double()
        attention = attention + _by_group(weights.sum(1), groups[: some.stop])
    even = sum(_by_group(torch.ones(1, row + 1), groups[: row + 1])[0] / (row + 1) for row in range(start, stop))
    return Shares(torch.as_tensor(attention) / (stop - start), torch.as_tensor(even) / (stop - start))


def groups_of(image_positions: Tensor, prompt_length: int, total: int) -> Tensor:
    """Which of GROUPS each token is of, `[total]`; text between the parts of an image is "system"."""
    groups = torch.full((total,), GROUPS.index("generated"))
    groups[:prompt_length] = GROUPS.index("query")
    groups[: int(image_positions[-1])] = GROUPS.index("system")
    groups[0] = GROUPS.index("first")
    groups[image_positions] = GROUPS.index("image")
    return groups


def _by_group(weights: Tensor, groups: Tensor) -> Tensor:
    """Sums of weights `[layers, columns]` by group, `[layers, groups]`."""
    return torch.zeros(len(weights), len(GROUPS), dtype=torch.float64).index_add_(1, groups, weights.double())
