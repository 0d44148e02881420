"""Share out key/value heads as vLLM's attention layers do it.

Contexts hold all heads, so that a context made with one number of ranks is loaded with any other.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def heads_of(rank: int, ranks: int, heads: int) -> slice:
    """Return the key/value heads that a rank holds, maybe shared with others."""
    if heads >= ranks:
        share = heads // ranks
        return slice(rank * share, (rank + 1) * share)
    head = rank // (ranks // heads)
    return slice(head, head + 1)


def join_heads(shards: Sequence[Tensor], heads: int) -> Tensor:
    """Join all heads of the ranks, `[layers, heads, tokens, head_dim]`."""
    copies = max(1, len(shards) // heads)
    return torch.cat(list(shards[::copies]), dim=1)
