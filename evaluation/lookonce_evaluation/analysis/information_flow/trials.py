"""Trials, each a flow knocked out in a set of layers, and their records."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from lookonce_evaluation.analysis.information_flow.questions import ImageQuestion
from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.model import EvalModel, PreparedCache, Step, about_image
from lookonce_evaluation.tasks.judge.judges import Judge, verdict
from lookonce_pruning import Blocked, Knockout
from lookonce_pruning.window import middle_layers
from lookonce_scenes.world import IMAGE_SIZE, Scene, masks
from lookonce_server.engines.prompts import Prompt

PUBLISHED_WINDOW = 9
"""Layers of Zhang et al.'s sliding window, of models that have 32 or 40."""
_PUBLISHED_LAYERS = 32
ROWS = 64
"""Most trials in one forward pass."""
Record = Any
"""Of JSON."""


class LayerSet(NamedTuple):
    """Some of a model's layers."""

    how: str  # "all", "from", "up to", "all but" or "window"
    at: int  # the first layer; of "up to" the last one, of "all but" the first left alone, of "window" the centre
    layers: tuple[int, ...]  # indices, ascending

    def __str__(self) -> str:
        return "all" if self.how == "all" else f"{self.how} {self.at}"


def default_window(num_layers: int) -> int:
    """Return 9, as published, from 18 layers on, else an odd share of the depth."""
    if num_layers >= 2 * PUBLISHED_WINDOW:
        return PUBLISHED_WINDOW
    return max(1, 2 * round((num_layers * PUBLISHED_WINDOW / _PUBLISHED_LAYERS - 1) / 2) + 1)


def default_step(num_layers: int) -> int:
    """Return 1 for up to 31 layers, and about a thirtieth of deeper models."""
    return max(1, num_layers // 16)


def windows(num_layers: int, width: int, step: int = 1) -> list[LayerSet]:
    """List a sliding window by its centre, cut off at both ends, as Zhang et al.

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
    """List all layers; from each; up to each; all but each quarter; windows."""
    layers, quarter = tuple(range(num_layers)), len(middle_layers(num_layers))
    return [
        LayerSet("all", 0, layers),
        *(LayerSet("from", at, layers[at:]) for at in layers[step::step]),
        *(LayerSet("up to", at, layers[: at + 1]) for at in layers[:-1:step]),
        *(
            LayerSet("all but", at, layers[:at] + layers[at + quarter :])
            for at in range(0, num_layers - quarter + 1, step)
        ),
        *windows(num_layers, width, step),
    ]


@dataclass(frozen=True, eq=False)
class Groups:
    """A prompt's groups of tokens, as absolute positions.

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
    """Find the first and fewest tokens with `text` in their text."""
    stop = next((i for i in range(1, len(ids) + 1) if text in decode(ids[:i])), None)
    if stop is None:
        return None
    return range(next(i for i in reversed(range(stop)) if text in decode(ids[i:stop])), stop)


def asked_tokens(scene: Scene, index: int, grid: tuple[int, ...]) -> Tensor | None:
    """Find the image tokens of an object, `[tokens]`, if they can be told.

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


class Plan(NamedTuple):
    """The trials of one model."""

    kinds: list[Trial]  # of descriptions and answers
    flows: list[Trial]  # of answers alone

    @classmethod
    def of(cls, num_layers: int, width: int, step: int = 1) -> "Plan":
        """Plan the kinds in all sets of layers, the flows in the sliding window."""
        return cls(trials(KINDS, layer_sets(num_layers, width, step)), trials(FLOWS, windows(num_layers, width, step)))

    @property
    def asking(self) -> list[Trial]:
        """All of it."""
        return self.kinds + self.flows


class Answer(NamedTuple):
    """An answer to a question."""

    probability: float  # of the token that begins the answer where nothing is knocked out
    first: bool  # whether greedy decoding begins as the right answer does
    right: bool  # whether it gives the right answer exactly, end token included


def _passes(
    model: EvalModel, prefix: PreparedCache, ids: Tensor, cases: Sequence[list[Blocked]], rows: int
) -> Iterator[tuple[Step, Sequence[list[Blocked]]]]:
    """Run a prompt's rest once a case, so many in a batch.

    The prompt up to the image's end is run once, in `prefix`: nothing is knocked out before it.
    """
    for part in (cases[first : first + rows] for first in range(0, len(cases), rows)):
        with Knockout(model.runner.model, part):
            step = model.extend(model.expand(prefix, len(part)), prefix.next_position, ids.expand(len(part), -1))
        yield step, part


def descriptions(model: EvalModel, image: Image.Image, plan: Sequence[Trial], *, rows: int = ROWS) -> list[str]:
    """Describe an image as ordinary, and in each trial."""
    prompt = model.prompts.describe(model.describe_prompt, image)
    groups, prefix, room = describe_groups(prompt), model.prefix(image), model.describe_room(prompt)
    ids = prompt.inputs["input_ids"][0, groups.query.start :]
    cases = [[], *(trial.blocked(groups) or [] for trial in plan)]
    batches = (model.decode(step, room, knockouts=part) for step, part in _passes(model, prefix, ids, cases, rows))
    return [model.text(tokens).strip() for batch in batches for tokens in batch]


def answers(
    model: EvalModel, prefix: PreparedCache, question: ImageQuestion, plan: Sequence[Trial], *, rows: int = ROWS
) -> list[Answer | None]:
    """Answer a question directly, and in each trial; None for no tokens.

    The right answer is fed in: decoding gives it exactly when each of its tokens is the most likely next one.
    """
    prompt = model.prompts.full(about_image(question.text), [question.image])
    groups = question_groups(model, prompt, question.text, question.shown)
    answer = model.answer_ids(question.answer)
    ids = torch.cat([prompt.inputs["input_ids"][0, groups.query.start :], torch.tensor(answer)])
    blocked = [trial.blocked(groups) for trial in plan]
    cases = [[], *(case for case in blocked if case is not None)]
    steps = (step for step, _ in _passes(model, prefix, ids, cases, rows))
    logits = torch.cat(
        [step.logits[:, -len(answer) - 1 : -1].cpu() for step in steps]
    )  # [cases, tokens of the answer, vocabulary]
    likeliest = logits.argmax(-1)
    probabilities = logits[:, 0].float().softmax(-1)[:, likeliest[0, 0]]
    right = model.with_one_end(likeliest) == torch.tensor(answer)
    results = iter(map(Answer, probabilities.tolist(), right[:, 0].tolist(), right.all(1).tolist()))
    return [next(results), *(None if case is None else next(results) for case in blocked)]


def describe_record(model: EvalModel, judge: Judge, case: Case, plan: Plan) -> Record:
    """Record the descriptions, the ordinary one first, and the verdicts."""
    texts = descriptions(model, case.image, plan.kinds)
    original = judge.objects(texts[0])
    verdicts = {text: verdict(judge, text, original, case.objects) for text in dict.fromkeys(texts)}  # many are alike
    return {"texts": texts, "verdicts": verdicts}


def ask_record(model: EvalModel, questions: Sequence[ImageQuestion], plan: Plan) -> Record:
    """Record each question's answers, the ordinary one first."""
    if not questions:
        return []
    prefix = model.prefix(questions[0].image)
    return [
        {
            "category": question.category,
            "question": question.text,
            "answer": question.answer,
            "answers": answers(model, prefix, question, plan.asking),
        }
        for question in questions
    ]
