"""Dropped tokens' keys and values averaged into the kept token most like them."""

from functools import partial

import torch
from torch import Tensor

from lookonce_evaluation.search.candidate import Candidate, Look, Way, middle_half
from lookonce_pruning import get_selection


def candidates(num_layers: int) -> list[Candidate]:
    """What is kept is chosen by `coverage` in the middle half of the layers."""
    half = middle_half(num_layers)
    ways = (("values, to the nearest by keys", "keys", False), ("values, to the nearest by values", "values", False))
    both = ("keys and values, to the nearest by values", "values", True)
    return [
        Candidate("merge", f"merge {name}", partial(merged, layers=half, by=by, keys_too=keys_too))
        for name, by, keys_too in (*ways, both)
    ]


def merged(look: Look, keep: int, *, layers: range, by: str, keys_too: bool) -> Way:
    """Means weighed by attention, in every layer by that layer's own likeness.

    After ToMe (Bolya et al., arXiv 2210.09461), which merges like tokens, and D2O (Wan et al., arXiv 2406.13035), which
    merges what a KV cache drops. Keys are averaged after RoPE, each at its own position.
    """
    described = look.described
    scores, columns = look.scores(layers), described.prompt.image_positions
    kept = get_selection("coverage").select(scores, keep)
    weights = scores.values.mean(dim=0)
    keys, values = described.keys.clone(), described.values.clone()
    for layer in look.all_layers:
        likeness = look.features(getattr(described, by), range(layer, layer + 1))
        into = (likeness @ likeness[kept[0]].T).argmax(dim=1).cpu()
        into[kept[0]] = torch.arange(keep)  # a kept token stays with itself
        values[layer][:, columns[kept[0]]] = means(values[layer][:, columns], weights, into, keep)
        if keys_too:
            keys[layer][:, columns[kept[0]]] = means(keys[layer][:, columns], weights, into, keep)
    replaced = described._replace(keys=keys, values=values)
    return Way(replaced.packed(kept, look.subject.runner.inv_freq))


def means(tokens: Tensor, weights: Tensor, into: Tensor, count: int) -> Tensor:
    """Weighed means of groups: tokens [heads, tokens, size], weights and into [tokens]; [heads, count, size]."""
    shares = torch.zeros(count, len(into)).index_put((into, torch.arange(len(into))), weights)
    return (shares / shares.sum(dim=1, keepdim=True)).to(tokens) @ tokens
