"""Pack a picture, its describe turn and a dozen questions into a sample.

The mask is shaped like a tree.

The picture is computed once a sample and every question attends to it, so that a step sees many questions a picture.
A question is asked in one of the forms that the server uses:

- *direct*: `<|user|><image>QUESTION<|assistant|>`, a full pass;
- *follow-up*: after the describe turn, with the description visible, or hidden and its positions closed up, as when
  it is answered from a compressed context (`...<|assistant|></s><|user|>QUESTION<|assistant|>`).

Either may be chained: earlier questions and answers stay visible. With context-drop a question sees only part of the
image tokens: a few near each object always, the others at a log-uniform rate. An object is never dropped wholly, or
its label would be noise.
"""

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from lookonce_scenes import questions as q
from lookonce_scenes.tokenizer import ASSISTANT, BOS, EOS, GRID, IMAGE, IMAGE_TOKENS, PAD, PATCH_SIZE, SYSTEM, USER
from lookonce_scenes.world import COLORS, KINDS, SIZES, Scene, sample_scene

IGNORE = -100
MAX_SEGMENTS = 40
SYSTEM_PROMPTS = ("You are a helpful assistant.", "Answer the question briefly.", "Answer with one word.")
# The weights are those under which look-up by content was learned: long "find" answers carry its signal.
_WEIGHTS = {"find": 5.0, "yes/no existence": 2.5, "yes/no position": 3.0, "yes/no digit": 0.7, "open digit": 0.7}


class Sample(NamedTuple):
    """A packed picture: rows `text` follow the image prefix, which is segment 0."""

    ids: NDArray[np.int64]  # [text] token ids after the prefix
    positions: NDArray[np.int64]  # [text]
    segments: NDArray[np.int64]  # [text] which describe turn, description or question a token belongs to
    labels: NDArray[np.int64]  # [text] next token, or IGNORE
    visible: NDArray[np.bool_]  # [MAX_SEGMENTS, MAX_SEGMENTS] segment (row) may look at segment (column)
    image_kept: NDArray[np.bool_]  # [MAX_SEGMENTS, IMAGE_TOKENS] image tokens a segment may look at
    patches: NDArray[np.int64]  # [5, IMAGE_TOKENS] kind, colour, size, centre, region; 0 is background


@dataclass(frozen=True)
class Exercise:
    """The questions' limits: objects at most, and the share under context-drop."""

    max_objects: int = 4
    drop_rate: float = 0.0


def image_prefix(tokenizer: PreTrainedTokenizerFast, system: str | None) -> list[int]:
    """Return the tokens up to and including the image.

    Every sample of a batch shares them, so that batches stay rectangular.
    """
    head = [SYSTEM, *tokenizer.encode(system, add_special_tokens=False)] if system else []
    return [BOS, *head, USER, *[IMAGE] * IMAGE_TOKENS]


def patch_labels(scene: Scene) -> NDArray[np.int64]:
    """For each image token what its patch shows, for the auxiliary vision loss."""
    labels = np.zeros((5, GRID, GRID), dtype=np.int64)
    centres = (np.arange(GRID) + 0.5) * PATCH_SIZE
    for o in scene.objects:
        inside = (abs(centres[:, None] - o.y) < o.radius + 1.5) & (abs(centres[None, :] - o.x) < o.radius + 1.5)
        values = (KINDS.index(o.kind), list(COLORS).index(o.color), SIZES.index(o.size), None, o.region)
        for row, value in enumerate(values):
            if value is not None:
                labels[row][inside] = 1 + value
        labels[3, min(GRID - 1, int(o.y // PATCH_SIZE)), min(GRID - 1, int(o.x // PATCH_SIZE))] = 1
    return labels.reshape(5, IMAGE_TOKENS)


def context_drop(scene: Scene, rng: random.Random) -> NDArray[np.bool_]:
    """Draw the image tokens visible under context-drop: `[IMAGE_TOKENS]`."""
    noise = np.random.default_rng(rng.randrange(2**31))
    yy, xx = (np.mgrid[0:GRID, 0:GRID] + 0.5) * PATCH_SIZE
    kept = noise.random(IMAGE_TOKENS) < math.exp(rng.uniform(math.log(0.004), 0.0))
    for o in scene.objects:
        near = ((xx - o.x) ** 2 + (yy - o.y) ** 2).ravel() + noise.uniform(0, 60, IMAGE_TOKENS)
        kept[np.argsort(near)[: rng.choice((1, 2, 3, 4, 6))]] = True
    return kept


def draw_questions(scene: Scene, rng: random.Random, count: int) -> list[q.Question]:
    """Up to `count` different questions, of every category and form."""
    askers: dict[str, q.Asker] = {"find": q.find_objects}
    askers |= {f"open {name}": asker for name, asker in q.OPEN.items()}
    names = [*askers, *(f"yes/no {name}" for name in q.YES_NO)]
    weights = [_WEIGHTS.get(name, 1.2) for name in names]
    found: dict[str, q.Question] = {}
    for _ in range(count * 3):
        name = rng.choices(names, weights)[0]
        if name in askers:
            question = askers[name](scene, rng)
        else:
            question = q.YES_NO[name.removeprefix("yes/no ")](scene, rng, rng.random() < 0.5)
        if question:
            found.setdefault(question.text, question)
        if len(found) == count:
            break
    return list(found.values())


def _as_typed(text: str, rng: random.Random) -> str:
    """People do not always type capitals and question marks."""
    if rng.random() < 0.1:
        text = text[0].lower() + text[1:]
    return text.rstrip("?.") if rng.random() < 0.07 else text


class Packer:
    """Packs scenes into samples of `length` text tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, length: int) -> None:
        self._tokenizer = tokenizer
        self._length = length

    def pack(self, seed: int, exercise: Exercise, prefix_length: int) -> tuple[Scene, Sample]:
        """Scene number `seed` and its packed sample."""
        scene = sample_scene(seed, max_objects=exercise.max_objects)
        rng = random.Random(seed + 1)
        sheet = _Sheet(self._length, prefix_length)
        turn = [*self._encode(rng.choice(q.DESCRIBE_PROMPTS)), ASSISTANT]
        description = [*self._encode(scene.caption), EOS]
        sheet.add(turn, [], start=prefix_length, sees=())
        sheet.add([], description, start=prefix_length + len(turn), sees=(1,), continues=True)
        self._ask(scene, rng, exercise, sheet, len(turn), len(turn) + len(description))
        return scene, sheet.sample(scene)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _ask(
        self, scene: Scene, rng: random.Random, exercise: Exercise, sheet: "_Sheet", turn: int, described: int
    ) -> None:
        direct, chained, shown = rng.random() < 0.5, rng.random() < 0.3, rng.random() < 0.5
        start = sheet.prefix if direct else sheet.prefix + (described if shown else turn)
        base = () if direct else (1, 2) if shown else (1,)
        asked: tuple[int, ...] = ()
        for question in draw_questions(scene, rng, 24):
            follows = bool(asked) if direct else True
            opening = [USER] if follows else []
            if not direct and not shown and not asked:
                opening = [EOS, USER]
            prompt = [*opening, *self._encode(_as_typed(question.text, rng)), ASSISTANT]
            answer = [*self._encode(question.answer), EOS]
            if not sheet.fits(len(prompt) + len(answer)):
                break
            kept = context_drop(scene, rng) if rng.random() < exercise.drop_rate else None
            segment = sheet.add(prompt, answer, start=start, sees=base + asked, kept=kept)
            if chained:
                start += len(prompt) + len(answer)
                asked += (segment,)


class _Sheet:
    """A sample being written."""

    def __init__(self, length: int, prefix: int) -> None:
        self.prefix = prefix
        self._length = length
        self._ids: list[int] = []
        self._positions: list[int] = []
        self._segments: list[int] = []
        self._labels: list[int] = []
        self._visible = np.eye(MAX_SEGMENTS, dtype=np.bool_)
        self._visible[:, 0] = True
        self._kept = np.ones((MAX_SEGMENTS, IMAGE_TOKENS), dtype=np.bool_)
        self._count = 1

    def fits(self, tokens: int) -> bool:
        return len(self._ids) + tokens <= self._length and self._count < MAX_SEGMENTS - 1

    def add(
        self,
        prompt: list[int],
        answer: list[int],
        *,
        start: int,
        sees: tuple[int, ...],
        kept: NDArray[np.bool_] | None = None,
        continues: bool = False,
    ) -> int:
        """Append a segment.

        An answer token is the label of the one before it: the last segment's if it `continues`.
        """
        segment = self._count
        self._count += 1
        ids = [*prompt, *answer]
        if continues:
            self._labels[-1] = answer[0]
        labels = [IGNORE] * max(0, len(prompt) - 1) + (answer if prompt else answer[1:])
        self._labels += labels + [IGNORE] * (len(ids) - len(labels))
        self._ids += ids
        self._positions += range(start, start + len(ids))
        self._segments += [segment] * len(ids)
        self._visible[segment, list(sees)] = True
        if kept is not None:
            self._kept[segment] = kept
        return segment

    def sample(self, scene: Scene) -> Sample:
        padding = self._length - len(self._ids)
        last = MAX_SEGMENTS - 1
        self._visible[last, 0] = False
        return Sample(
            np.array(self._ids + [PAD] * padding),
            np.array(self._positions + [0] * padding),
            np.array(self._segments + [last] * padding),
            np.array(self._labels + [IGNORE] * padding),
            self._visible,
            self._kept,
            patch_labels(scene),
        )
