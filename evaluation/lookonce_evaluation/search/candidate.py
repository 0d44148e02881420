"""One way to make a context, and what it may look at."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor

from lookonce_evaluation.dataset import Case
from lookonce_evaluation.subject import Subject
from lookonce_pruning import Blocked, ImageScores, PackedContext, ScoreQueries


class Look:
    """One image's describe pass with every layer recorded; what more a way needs of the image is computed once.

    Args:
        subject: the checkpoint.
        case: the image.
    """

    def __init__(self, subject: Subject, case: Case) -> None:
        self.subject = subject
        self.case = case
        self.all_layers = range(subject.runner.num_layers)
        self.described = subject.describe(case, self.all_layers)
        self._shared: dict[str, Tensor] = {}

    def scores(self, layers: range, rows: ScoreQueries = "generated") -> ImageScores:
        """What the server's recorder would say for this window."""
        values = self.shared(rows, lambda look: look.described.scores(rows).values)
        return self.with_values(values[layers.start : layers.stop], layers)

    def with_values(self, values: Tensor, layers: range) -> ImageScores:
        """Scores `[layers, image tokens]` made in another way."""
        return ImageScores(values, tuple(layers), self.described.prompt.grid, len(self.all_layers))

    def shared(self, name: str, compute: Callable[[Self], Tensor]) -> Tensor:
        """What several ways use, computed for the first of them."""
        if name not in self._shared:
            self._shared[name] = compute(self)
        return self._shared[name]

    @cached_property
    def rows(self) -> Tensor:
        """What each generated token's row, and the last prompt position's, paid: [layers, rows, image tokens]."""
        start, prompt = self.described.prompt.tokens - 1, self.described.prompt
        return self.described.recorder.weights(
            range(start, start + 1 + len(self.described.said)), prompt.image_positions
        )

    def features(self, source: Tensor, layers: range) -> Tensor:
        """Keys or values of the image tokens, centred and of length one, all layers and heads joined: [tokens, n]."""
        columns = self.described.prompt.image_positions
        joined = source[layers.start : layers.stop, :, columns].permute(2, 0, 1, 3).flatten(1)
        return torch.nn.functional.normalize(joined - joined.mean(0), dim=1)


class Way(NamedTuple):
    """A context, and in which layers its image tokens are not to be looked at."""

    context: PackedContext
    blocked: Sequence[Blocked] = ()


class Candidate(NamedTuple):
    """One way to make a context."""

    family: str
    name: str  # unique
    make: Callable[[Look, int], Way]  # of a look and the number of image tokens to keep


Choose = Callable[[Look, int], Tensor]
"""Which image tokens stay, `[1 or layers, keep]`, ascending in each row."""


def choosing(family: str, name: str, choose: Choose) -> Candidate:
    """A candidate that only chooses image tokens."""

    def make(look: Look, keep: int) -> Way:
        return Way(look.described.packed(choose(look, keep), look.subject.runner.inv_freq))

    return Candidate(family, name, make)


def middle_half(num_layers: int) -> range:
    """The window that the other families take: a quarter to three quarters of the depth."""
    return range(num_layers // 4, max(num_layers // 4 + 1, 3 * num_layers // 4))
