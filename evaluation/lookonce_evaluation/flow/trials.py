"""What is knocked out: a flow from one group of tokens to another, in a set of layers."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.flow.groups import Groups
from lookonce_evaluation.flow.layers import LayerSet
from lookonce_pruning import Blocked

Ends = tuple[range, Tensor | None]
"""The rows that do not look, and the columns not looked at; None where those cannot be told."""


def _columns(positions: range) -> Tensor:
    return torch.tensor(positions)


KINDS: dict[str, Callable[[Groups], Ends]] = {
    "image→generated": lambda g: (g.generated, g.image),
    "image→query": lambda g: (g.query, g.image),
    "image→both": lambda g: (range(g.query.start, g.generated.stop), g.image),
}
"""Kaduri et al.'s; the last prompt position counts as a query token."""
FLOWS: dict[str, Callable[[Groups], Ends]] = {
    "question→last": lambda g: (g.last, _columns(g.question)),
    "image→last": lambda g: (g.last, g.image),
    "last→last": lambda g: (g.last, _columns(g.last)),
    "image→question": lambda g: (g.question, g.image),
    "asked→question": lambda g: (g.question, g.asked),
    "others→question": lambda g: (g.question, g.others),
}
"""Zhang et al.'s: the question is its own tokens alone, the last position is no part of it."""
_ENDS = KINDS | FLOWS


class Trial(NamedTuple):
    """A flow knocked out in some layers."""

    flow: str  # of KINDS or FLOWS
    where: LayerSet

    def blocked(self, groups: Groups) -> list[Blocked] | None:
        """What is blocked in a prompt; None where the tokens cannot be told."""
        rows, columns = _ENDS[self.flow](groups)
        return None if columns is None else [Blocked(rows, columns, self.where.layers)]


def trials(flows: Iterable[str], sets: Sequence[LayerSet]) -> list[Trial]:
    """Each flow in each set of layers."""
    return [Trial(flow, where) for flow in flows for where in sets]
