"""What a selection must beat: a lattice, random draws, and the attention ranking."""

import random

from torch import Tensor

from lookonce_evaluation.search.candidate import Candidate, Choose, Look, choosing
from lookonce_pruning import get_selection, middle_layers

FAMILY = "baseline"
DRAWS = 5
"""Random draws; each draws anew for every image."""


def candidates(num_layers: int) -> list[Candidate]:
    """The attention ranking is the paper's, in its window."""
    middle = middle_layers(num_layers)

    def ranked(look: Look, keep: int) -> Tensor:
        return get_selection("attention").select(look.scores(middle), keep)

    def lattice(look: Look, keep: int) -> Tensor:
        return get_selection("uniform").select(look.scores(middle), keep)

    draws = [choosing(FAMILY, f"random {seed}", drawing(seed)) for seed in range(DRAWS)]
    return [choosing(FAMILY, "attention", ranked), choosing(FAMILY, "uniform", lattice), *draws]


def drawing(seed: int) -> Choose:
    """Random tokens, other ones for each image."""

    def choose(look: Look, keep: int) -> Tensor:
        drawn = random.Random(f"{seed} {look.case.name}").getrandbits(32)
        return get_selection("random", seed=drawn).select(look.scores(look.all_layers), keep)

    return choose
