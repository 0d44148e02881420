"""What is knocked out: a flow from one group of a prompt's tokens to another, in a set of layers."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.model import EvalModel
from lookonce_pruning import Blocked
from lookonce_pruning.window import middle_layers
from lookonce_scenes.world import IMAGE_SIZE, Scene, masks
from lookonce_server.engines.prompts import Prompt

PUBLISHED_WINDOW = 9
"""Layers of Zhang et al.'s sliding window, of models that have 32 or 40."""
_PUBLISHED_LAYERS = 32


class LayerSet(NamedTuple):
    """Some of a model's layers."""

    how: str  # "all", "from", "up to", "all but" or "window"
    at: int  # the first layer; of "up to" the last one, of "all but" the first left alone, of "window" the centre
    layers: tuple[int, ...]  # indices, ascending

    def __str__(self) -> str:
        return "all" if self.how == "all" else f"{self.how} {self.at}"


def default_window(num_layers: int) -> int:
    """The published 9 layers from 18 layers on, else the odd number nearest to the same share of the depth."""
    if num_layers >= 2 * PUBLISHED_WINDOW:
        return PUBLISHED_WINDOW
    return max(1, 2 * round((num_layers * PUBLISHED_WINDOW / _PUBLISHED_LAYERS - 1) / 2) + 1)


def default_step(num_layers: int) -> int:
    """Every layer of models of up to 31, and at most about thirty places of deeper ones."""
    return max(1, num_layers // 16)


def windows(num_layers: int, width: int, step: int = 1) -> list[LayerSet]:
    """A window that slides over the layers, by its centre; cut off at both ends, as Zhang et al. publish it.

    Args:
        num_layers: of the model.
        width: layers of the window; an even one reaches one layer further down than up.
        step: layers from one centre to the next.
    """
    spans = [
        (at, range(max(0, at - width // 2), min(num_layers, at + (width + 1) // 2)))
        for at in range(0, num_layers, step)
    ]
    return [LayerSet("window", at, tuple(span)) for at, span in spans]


def layer_sets(num_layers: int, width: int, step: int = 1) -> list[LayerSet]:
    """All layers; from each on; up to each; all but each quarter of the depth; the sliding windows."""
    everything = tuple(range(num_layers))
    open_width = len(middle_layers(num_layers))
    sets = [LayerSet("all", 0, everything)]
    sets += [LayerSet("from", at, everything[at:]) for at in range(step, num_layers, step)]
    sets += [LayerSet("up to", at, everything[: at + 1]) for at in range(0, num_layers - 1, step)]
    sets += [
        LayerSet("all but", at, everything[:at] + everything[at + open_width :])
        for at in range(0, num_layers - open_width + 1, step)
    ]
    return sets + windows(num_layers, width, step)


@dataclass(frozen=True, eq=False)
class Groups:
    """Where a prompt's tokens stand; all are absolute positions.

    image: [image tokens], int64
    query: all after the image, the chat template's own tokens among them
    question: the question's own tokens, within `query`; all of `query` before the last position where none is asked
    asked: [tokens], int64, the image tokens that show the object asked about, where that is known; not all of `image`
    """

    image: Tensor
    query: range
    question: range
    asked: Tensor | None = None

    @property
    def last(self) -> range:
        """The prompt's last position, from which the first token of the answer comes."""
        return self.query[-1:]

    @property
    def generated(self) -> range:
        """Every position after the prompt."""
        return range(self.query.stop, sys.maxsize)

    @property
    def others(self) -> Tensor | None:
        """The image tokens that are not `asked`."""
        return None if self.asked is None else self.image[~torch.isin(self.image, self.asked)]


def describe_groups(prompt: Prompt) -> Groups:
    """Group the tokens of a describe turn."""
    query = range(int(prompt.image_positions[-1]) + 1, prompt.tokens)
    return Groups(prompt.image_positions, query, query[:-1])


def question_groups(model: EvalModel, prompt: Prompt, question: str, shown: tuple[Scene, int] | None = None) -> Groups:
    """Group the tokens of a question that is asked directly.

    Raises:
        EvaluationError: the rendered prompt does not hold the question as it is.
    """
    groups = describe_groups(prompt)
    ids = prompt.inputs["input_ids"][0, groups.query.start :].tolist()
    span = _span(model.tokenizer.decode, ids, question.strip())
    if span is None:
        raise EvaluationError(f"question {question!r}: the chat template does not show it as it is")
    at = range(groups.query.start + span.start, min(groups.query.start + span.stop, groups.last.start))
    asked = None if shown is None else asked_tokens(*shown, prompt.grid)
    return Groups(groups.image, groups.query, at, None if asked is None else prompt.image_positions[asked])


def _span(decode: Callable[[list[int]], str], ids: list[int], text: str) -> range | None:
    """The fewest tokens whose text holds `text`, its first place."""
    stop = next((i for i in range(1, len(ids) + 1) if text in decode(ids[:i])), None)
    if stop is None:
        return None
    return range(next(i for i in reversed(range(stop)) if text in decode(ids[i:stop])), stop)


def asked_tokens(scene: Scene, index: int, grid: tuple[int, int]) -> Tensor | None:
    """Find the image tokens that show some of an object, `[tokens]`, ascending; None where they cannot be told.

    They can where the tokens are a square, as scenes are: then each stands for an equal square of the picture.
    """
    rows, columns = grid
    if rows != columns:
        return None
    y, x = torch.from_numpy(masks(scene)[index]).nonzero().unbind(1)
    tokens = (y * rows // IMAGE_SIZE * columns + x * columns // IMAGE_SIZE).unique()
    return tokens if len(tokens) < rows * columns else None


Ends = tuple[range, Tensor | None]
"""The rows that do not look, and the columns not looked at; None where those cannot be told."""
KINDS: dict[str, Callable[[Groups], Ends]] = {
    "image→generated": lambda g: (g.generated, g.image),
    "image→query": lambda g: (g.query, g.image),
    "image→both": lambda g: (range(g.query.start, g.generated.stop), g.image),
}
"""Kaduri et al.'s; the last prompt position counts as a query token."""
FLOWS: dict[str, Callable[[Groups], Ends]] = {
    "question→last": lambda g: (g.last, torch.tensor(g.question)),
    "image→last": lambda g: (g.last, g.image),
    "last→last": lambda g: (g.last, torch.tensor(g.last)),
    "image→question": lambda g: (g.question, g.image),
    "asked→question": lambda g: (g.question, g.asked),
    "others→question": lambda g: (g.question, g.others),
}
"""Zhang et al.'s: the question is its own tokens alone, the last position is no part of it."""


class Trial(NamedTuple):
    """A flow knocked out in some layers."""

    flow: str  # of KINDS or FLOWS
    where: LayerSet

    def blocked(self, groups: Groups) -> list[Blocked] | None:
        """Say what is blocked in a prompt; None where the tokens cannot be told."""
        rows, columns = (KINDS | FLOWS)[self.flow](groups)
        return None if columns is None else [Blocked(rows, columns, self.where.layers)]


def trials(flows: Iterable[str], sets: Sequence[LayerSet]) -> list[Trial]:
    """List each flow in each set of layers."""
    return [Trial(flow, where) for flow in flows for where in sets]
