"""How tensor parallelism shares out key/value heads, as vLLM's attention layers do it.

Contexts hold all heads, so that a context made with one number of ranks is loaded with any other.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def heads_of(rank: int, ranks: int, heads: int) -> slice:
    """The key/value heads that a rank holds: its share, or one that several ranks hold where there are more ranks."""
    if heads >= ranks:
        share = heads // ranks
        return slice(rank * share, (rank + 1) * share)
    head = rank // (ranks // heads)
    return slice(head, head + 1)


def joined(shards: Sequence[Tensor], heads: int) -> Tensor:
    """All heads, of the ranks' own: `[layers, heads, tokens, head_dim]` of shards with the same dimensions."""
    copies = max(1, len(shards) // heads)
    return torch.cat(list(shards[::copies]), dim=1)
