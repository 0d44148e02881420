"""Held-out questions: for each scene, MME's two yes/no questions a category, and one open question a category."""

import random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookonce_scenes.questions import CATEGORIES, OPEN, Question, yes_no_pair
from lookonce_scenes.world import Scene, render, sample_scene

HELD_OUT_SEED = 500_000_000
"""First seed of the evaluation's scenes; training draws seeds from a thousand million on."""


class Case(NamedTuple):
    """One image and its questions."""

    scene: Scene
    pixels: NDArray[np.uint8]  # [height, width, 3]
    pairs: dict[str, tuple[Question, Question]]  # by category: the answer is yes, the answer is no
    open: dict[str, Question]  # by category

    @property
    def questions(self) -> list[Question]:
        """All questions, pairs first."""
        return [q for pair in self.pairs.values() for q in pair] + list(self.open.values())


def held_out(count: int, first_seed: int = HELD_OUT_SEED) -> list[Case]:
    """`count` scenes that no training has seen, with their questions."""
    return [_case(first_seed + i) for i in range(count)]


def _case(seed: int) -> Case:
    scene = sample_scene(seed)
    rng = random.Random(seed)
    pairs = {name: pair for name in CATEGORIES if (pair := yes_no_pair(scene, name, rng))}
    single = {name: question for name in CATEGORIES if (question := OPEN[name](scene, rng))}
    return Case(scene, render(scene), pairs, single)
