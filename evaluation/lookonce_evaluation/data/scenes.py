"""Held-out scenes, with a yes/no pair and an open question a category."""

import random
from typing import NamedTuple

from PIL import Image

from lookonce_scenes.questions import CATEGORIES, OPEN, Question, yes_no_pair
from lookonce_scenes.world import Scene, render, sample_scene

HELD_OUT_SEED = 550_000_000
"""First seed of the scenes that results are reported on; training draws seeds from a thousand million on."""
SEARCH_SEED = 700_000_000
"""First seed of the scenes by which anything is chosen: none of them is among those that are reported on."""


class Case(NamedTuple):
    """One image and its questions."""

    name: str  # unique among the images of a data set
    image: Image.Image
    pairs: dict[str, tuple[Question, Question]]  # by category: the answer is yes, the answer is no
    open: dict[str, Question]  # by category
    scene: Scene | None = None  # what is in it, where that is known

    @property
    def questions(self) -> list[Question]:
        """All questions, pairs first."""
        return [q for pair in self.pairs.values() for q in pair] + list(self.open.values())

    @property
    def objects(self) -> list[str] | None:
        """The objects in it, in words, if known."""
        return [o.phrase for o in self.scene.objects] if self.scene else None


def held_out(count: int, first_seed: int = HELD_OUT_SEED) -> list[Case]:
    """Draw `count` scenes that no training has seen, with their questions."""
    return [_case(first_seed + i) for i in range(count)]


def _case(seed: int) -> Case:
    scene = sample_scene(seed)
    rng = random.Random(seed)
    pairs = {name: pair for name in CATEGORIES if (pair := yes_no_pair(scene, name, rng))}
    single = {name: question for name in CATEGORIES if (question := OPEN[name](scene, rng))}
    return Case(str(seed), Image.fromarray(render(scene)), pairs, single, scene)
