"""The tokens of a prompt by their part in it."""

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from lookonce_evaluation.errors import EvaluationError
from lookonce_scenes.world import IMAGE_SIZE, Scene, masks
from lookonce_server.engines.prompts import Prompt, PromptRenderer


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
    """Of a describe turn."""
    query = range(int(prompt.image_positions[-1]) + 1, prompt.tokens)
    return Groups(prompt.image_positions, query, query[:-1])


def question_groups(
    prompts: PromptRenderer, prompt: Prompt, question: str, shown: tuple[Scene, int] | None = None
) -> Groups:
    """Of a question that is asked directly.

    Args:
        prompts: rendered the prompt.
        prompt: the question's.
        question: its text.
        shown: the scene, and the index of the object that is asked about.

    Raises:
        EvaluationError: the rendered prompt does not hold the question as it is.
    """
    every = describe_groups(prompt)
    ids = prompt.inputs["input_ids"][0, every.query.start :].tolist()
    found = _span(prompts, ids, question.strip())
    if found is None:
        raise EvaluationError(f"question {question!r}: the chat template does not show it as it is")
    at = range(every.query.start + found.start, min(every.query.start + found.stop, every.last.start))
    asked = None if shown is None else asked_tokens(*shown, prompt.grid)
    columns = None if asked is None else prompt.image_positions[asked]
    return Groups(every.image, every.query, at, columns)


def _span(prompts: PromptRenderer, ids: list[int], text: str) -> range | None:
    """The fewest tokens whose text holds `text`, its first place."""
    decode = prompts.tokenizer.decode
    stop = next((i for i in range(1, len(ids) + 1) if text in decode(ids[:i])), None)
    if stop is None:
        return None
    start = next(i for i in reversed(range(stop)) if text in decode(ids[i:stop]))
    return range(start, stop)


def asked_tokens(scene: Scene, index: int, grid: tuple[int, int]) -> Tensor | None:
    """Indices of the image tokens that show some of an object, `[tokens]`, ascending; None where they cannot be told.

    They can where the tokens are a square, as scenes are: then each stands for an equal square of the picture.

    Args:
        scene: the scene.
        index: the object.
        grid: rows and columns of the image tokens.
    """
    rows, columns = grid
    if rows != columns:
        return None
    y, x = torch.from_numpy(masks(scene)[index]).nonzero().unbind(1)
    found = (y * rows // IMAGE_SIZE * columns + x * columns // IMAGE_SIZE).unique()
    return found if len(found) < rows * columns else None
