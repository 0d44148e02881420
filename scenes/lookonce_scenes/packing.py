"""Write training samples: pictures, their describe turns and many questions in one sequence.

The mask is shaped like a tree: the pictures are computed once a sample and every question attends to them, so that a
step sees many questions a picture. A sample's rows are the *head* (what stands before and between the pictures), the
pictures' tokens, and the text behind. Rows belong to *segments*; a segment sees itself causally, and others whole.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookonce_scenes.tokenizer import GRID, IMAGE_TOKENS, PAD, PATCH_SIZE
from lookonce_scenes.world import SIZES, WIDE, Scene

IGNORE = -100
MAX_SEGMENTS = 64
PATCH_ROWS = 6
DESCRIPTION_WEIGHT = 0.5
CATEGORIES = (
    "none", "description", "describe", "existence", "count", "position", "color", "shape", "size", "digit", "find",
    "negation", "list", "fill", "which", "same", "total", "direction", "when", "what", "often", "after", "frame",
    "moving",
)  # fmt: skip
"""Kinds of answers in the training's log; those about one of several pictures count as what they ask for."""


class Sample(NamedTuple):
    """A packed sample of some pictures.

    Segment 0 is the head's beginning, segments from 1 are the pictures; the last one is padding.
    """

    head: NDArray[np.int64]  # [head] token ids before and between the pictures
    ids: NDArray[np.int64]  # [text] token ids behind them
    positions: NDArray[np.int64]  # [rows], rows = head + pictures x IMAGE_TOKENS + text
    segments: NDArray[np.int64]  # [rows]
    labels: NDArray[np.int64]  # [text] next token, or IGNORE
    weights: NDArray[np.float32]  # [text] of the labels
    kinds: NDArray[np.int64]  # [MAX_SEGMENTS] what a segment answers, of CATEGORIES
    visible: NDArray[np.bool_]  # [MAX_SEGMENTS, MAX_SEGMENTS] segment (row) may look at segment (column)
    image_kept: NDArray[np.bool_]  # [MAX_SEGMENTS, pictures x IMAGE_TOKENS] image tokens a segment may look at
    patches: NDArray[np.int64]  # [pictures, PATCH_ROWS, IMAGE_TOKENS] kind, colour, size, centre, region, filled


def patch_labels(scene: Scene) -> NDArray[np.int64]:
    """For each image token what its patch shows, for the auxiliary vision loss; 0 is background."""
    labels = np.zeros((PATCH_ROWS, GRID, GRID), dtype=np.int64)
    centres = (np.arange(GRID) + 0.5) * PATCH_SIZE
    for o in scene.objects:
        half_width, half_height = (o.radius, o.radius) if o.turn else (o.half_width, o.half_height)
        inside = (abs(centres[:, None] - o.y) < half_height + 1.5) & (abs(centres[None, :] - o.x) < half_width + 1.5)
        at = (min(GRID - 1, int(o.y // PATCH_SIZE)), min(GRID - 1, int(o.x // PATCH_SIZE)))
        inside[at] = True
        names = (WIDE.kinds.index(o.kind), WIDE.colors.index(o.color), SIZES.index(o.size))
        for row, value in zip((0, 1, 2, 4, 5), (*names, o.region, int(o.line > 0)), strict=True):
            labels[row][inside] = 1 + value
        labels[3][at] = 1
    return labels.reshape(PATCH_ROWS, IMAGE_TOKENS)


# --- context-drop ----------------------------------------------------------------------------------------------------


def draw_rate(rng: random.Random) -> float:
    """Draw a share of the image tokens: log-uniform, 0.4% to 100%, and now and then all of them."""
    return 1.0 if rng.random() < 0.15 else math.exp(rng.uniform(math.log(0.004), 0.0))


def context_drop(scene: Scene, rng: random.Random, rate: float) -> NDArray[np.bool_]:
    """Draw the image tokens visible under context-drop: `[IMAGE_TOKENS]`.

    A few on each object always, or the label would be noise. The others are spread at random, lie evenly, or lie near
    the objects, as attention chooses them.
    """
    if rate >= 1:
        return np.ones(IMAGE_TOKENS, dtype=np.bool_)
    noise = np.random.default_rng(rng.randrange(2**31))
    yy, xx = (np.mgrid[0:GRID, 0:GRID] + 0.5) * PATCH_SIZE
    kept = np.zeros(IMAGE_TOKENS, dtype=np.bool_)
    near = np.full(IMAGE_TOKENS, np.inf)
    for o in scene.objects:
        distance = ((xx - o.x) ** 2 + (yy - o.y) ** 2).ravel()
        near = np.minimum(near, distance / max(60.0, o.radius**2))
        order = np.argsort(distance + noise.uniform(0, max(60.0, 0.8 * o.radius**2), IMAGE_TOKENS))
        kept[order[: rng.choice((1, 2, 3, 4, 6))]] = True
    count, form = round(rate * IMAGE_TOKENS), rng.random()
    if form < 0.45:
        kept[np.argsort(near + noise.exponential(rng.choice((0.3, 1.0, 3.0)), IMAGE_TOKENS))[:count]] = True
    elif form < 0.6:
        kept[np.linspace(rng.random(), IMAGE_TOKENS - 1, max(1, count)).astype(int)] = True
    else:
        kept |= noise.random(IMAGE_TOKENS) < rate
    return kept


def keep_in_all(scenes: Sequence[Scene], rng: random.Random, rate: float | None = None) -> NDArray[np.bool_]:
    """Draw the visible image tokens of several pictures: `[pictures x IMAGE_TOKENS]`.

    Args:
        scenes: the pictures.
        rng: decides.
        rate: the share of each that is kept, 0 for none at all; None draws it, mostly one for all pictures.

    """
    if rate == 0:
        return np.zeros(len(scenes) * IMAGE_TOKENS, dtype=np.bool_)
    differs = rate is None and rng.random() < 0.3
    rate = draw_rate(rng) if rate is None else rate
    return np.concatenate([context_drop(s, rng, draw_rate(rng) if differs else rate) for s in scenes])


# --- a sample being written ------------------------------------------------------------------------------------------


class Sheet:
    """A sample being written.

    Args:
        scenes: its pictures.
        head: rows of the head.
        text: rows of the text.

    """

    def __init__(self, scenes: Sequence[Scene], head: int, text: int) -> None:
        self.scenes = scenes
        self.images = tuple(range(1, 1 + len(scenes)))
        self._sizes = head, text
        self._head, self._text = _Rows(head), _Rows(text)
        self._starts = [0] * len(scenes)
        self._labels: list[int] = []
        self._weights: list[float] = []
        self._kinds = np.zeros(MAX_SEGMENTS, dtype=np.int64)
        self._visible = np.eye(MAX_SEGMENTS, dtype=np.bool_)
        self._kept = np.ones((MAX_SEGMENTS, len(scenes) * IMAGE_TOKENS), dtype=np.bool_)
        self._count = 1 + len(scenes)

    def fits(self, tokens: int) -> bool:
        """Whether a segment of so many tokens fits."""
        return len(self._text.ids) + tokens <= self._sizes[1] and self._count < MAX_SEGMENTS - 1

    def begin(self, ids: list[int]) -> int:
        """Write the head's beginning, segment 0; gives the next position."""
        self._head.add(ids, 0, 0)
        return len(ids)

    def put(self, ids: list[int], start: int, sees: Sequence[int]) -> int:
        """Write a text that pictures see, between them; gives its segment."""
        segment = self._new(sees)
        self._head.add(ids, start, segment)
        return segment

    def place(self, image: int, start: int, sees: Sequence[int]) -> int:
        """Place a picture (from 1), and say what it sees; gives the next position."""
        self._starts[image - 1] = start
        self._visible[image, list(sees)] = True
        return start + IMAGE_TOKENS

    def add(
        self,
        prompt: list[int],
        answer: list[int],
        *,
        start: int,
        sees: Sequence[int],
        kind: str = "none",
        kept: NDArray[np.bool_] | None = None,
        continues: bool = False,
    ) -> int:
        """Append a segment of text; gives its number.

        An answer token is the label of the one before it: the last segment's if it `continues`.
        """
        segment = self._new(sees)
        ids = [*prompt, *answer]
        if continues:
            self._labels[-1] = answer[0]
        labels = [IGNORE] * max(0, len(prompt) - 1) + (answer if prompt else answer[1:])
        self._labels += labels + [IGNORE] * (len(ids) - len(labels))
        self._weights += [DESCRIPTION_WEIGHT if continues or kind == "describe" else 1.0] * len(ids)
        self._text.add(ids, start, segment)
        self._kinds[segment] = CATEGORIES.index(kind)
        if kept is not None:
            self._kept[segment] = kept
        return segment

    def _new(self, sees: Sequence[int]) -> int:
        segment = self._count
        self._count += 1
        self._visible[segment, list(sees)] = True
        return segment

    def sample(self) -> Sample:
        """Return the sample, padded."""
        padding = self._sizes[1] - len(self._labels)
        head, text = self._head.padded(), self._text.padded()
        images = np.concatenate([start + np.arange(IMAGE_TOKENS) for start in self._starts])
        return Sample(
            head[0],
            text[0],
            np.concatenate([head[1], images, text[1]]),
            np.concatenate([head[2], np.repeat(self.images, IMAGE_TOKENS), text[2]]),
            np.array(self._labels + [IGNORE] * padding),
            np.array(self._weights + [0.0] * padding, dtype=np.float32),
            self._kinds,
            self._visible,
            self._kept,
            np.stack([patch_labels(scene) for scene in self.scenes]),
        )


class _Rows:
    """Token ids with positions and segments."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.ids: list[int] = []
        self._positions: list[int] = []
        self._segments: list[int] = []

    def add(self, ids: list[int], start: int, segment: int) -> None:
        self.ids += ids
        self._positions += range(start, start + len(ids))
        self._segments += [segment] * len(ids)

    def padded(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        padding = self._size - len(self.ids)
        assert padding >= 0, "a sample is longer than its rows"
        columns = ((self.ids, PAD), (self._positions, 0), (self._segments, MAX_SEGMENTS - 1))
        ids, positions, segments = (np.array(values + [filler] * padding, dtype=np.int64) for values, filler in columns)
        return ids, positions, segments
