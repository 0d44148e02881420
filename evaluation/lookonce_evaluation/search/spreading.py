"""How the tokens are kept apart: coverage's parameters, layers on their own, and other ways to be diverse."""

from functools import partial

import torch
from torch import Tensor

from lookonce_evaluation.search.candidate import Candidate, Look, choosing, middle_half
from lookonce_pruning import get_selection

GRID = ((0.15, 0.9), (0.2, 0.9), (0.3, 0.9), (0.4, 0.9), (0.25, 0.7), (0.25, 1.0), (0.3, 1.0))
"""Around the default, reach 0.25 and strength 0.9."""


def candidates(num_layers: int) -> list[Candidate]:
    """In the middle half of the layers, but for those where each layer chooses for itself."""
    half = middle_half(num_layers)
    specs = [f"coverage:reach={reach},strength={strength}" for reach, strength in GRID]
    return [
        *(choosing("spread", spec, partial(selected, layers=half, spec=spec)) for spec in specs),
        choosing("spread", "attention, same window", partial(selected, layers=half, spec="attention")),
        choosing("per layer", "attention-per-layer", partial(alone, spec="attention")),
        choosing("per layer", "coverage, each layer's own", partial(alone, spec="coverage")),
        choosing("diverse", "determinantal, by values", partial(determinantal, layers=half, by="values")),
        choosing("diverse", "determinantal, by keys", partial(determinantal, layers=half, by="keys")),
        choosing("diverse", "facility location, by values", partial(facility, layers=half)),
        choosing("diverse", "rows served in turn", partial(served, layers=half)),
    ]


def selected(look: Look, keep: int, *, layers: range, spec: str) -> Tensor:
    """One of the server's selections."""
    return get_selection(spec).select(look.scores(layers), keep)


def alone(look: Look, keep: int, *, spec: str) -> Tensor:
    """Each layer keeps what it looked at itself."""
    windows = [range(layer, layer + 1) for layer in look.all_layers]
    return torch.cat([get_selection(spec).select(look.scores(window), keep) for window in windows])


def determinantal(look: Look, keep: int, *, layers: range, by: str) -> Tensor:
    """The quality is the attention drawn, the likeness the cosine of two tokens' keys or values."""
    features = look.features(getattr(look.described, by), layers).double().cpu()
    quality = look.scores(layers).values.double().mean(dim=0).clamp_min(1e-12).sqrt()
    return greedy_determinant(features @ features.T * quality[:, None] * quality, keep)


def greedy_determinant(kernel: Tensor, keep: int) -> Tensor:
    """Greedy choice of a large determinant (Chen et al., arXiv 1709.05135, algorithm 1): kernel [tokens, tokens]."""
    gain, rows = kernel.diagonal().clone(), kernel.new_zeros(keep, len(kernel))
    chosen: list[int] = []
    for i in range(keep):
        best = int(gain.argmax())
        chosen.append(best)
        rows[i] = (kernel[best] - rows[:i, best] @ rows[:i]) / gain[best].clamp_min(1e-18).sqrt()
        gain -= rows[i] ** 2
        gain[chosen] = -torch.inf
    return torch.tensor([sorted(chosen)])


def facility(look: Look, keep: int, *, layers: range) -> Tensor:
    """The likeness is the cosine of two tokens' values, the weight the attention drawn."""
    features = look.features(look.described.values, layers).cpu()
    return greedy_facility(features @ features.T, look.scores(layers).values.mean(dim=0), keep)


def greedy_facility(likeness: Tensor, weights: Tensor, keep: int) -> Tensor:
    """Greedy choice such that each token, by its weight, has a like one among the kept: likeness [tokens, tokens]."""
    likeness = likeness.clamp_min(0)
    served = torch.zeros(len(likeness))
    chosen: list[int] = []
    for _ in range(keep):
        gain = (weights[:, None] * torch.maximum(served[:, None], likeness)).sum(dim=0)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        served = torch.maximum(served, likeness[:, chosen[-1]])
    return torch.tensor([sorted(chosen)])


def served(look: Look, keep: int, *, layers: range) -> Tensor:
    """Greedy choice in which a word of the description that has got its tokens asks for no more: capped sums by row."""
    rows = look.rows[layers.start : layers.stop].mean(dim=0)  # [rows, image tokens]
    got = torch.zeros(len(rows))
    chosen: list[int] = []
    for _ in range(keep):
        gain = (got[:, None] + rows).clamp_max(0.1).sum(dim=0) + 1e-6 * rows.sum(dim=0)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        got += rows[:, chosen[-1]]
    return torch.tensor([sorted(chosen)])
