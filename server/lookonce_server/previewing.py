"""What a context keeps of its image, and what it would keep at another retention."""

import torch

from lookonce_cache import CompressedContext
from lookonce_pruning import ImageScores, PruningError, get_selection, kept_count
from lookonce_server.errors import InvalidRequestError


def kept_by(context: CompressedContext) -> list[int]:
    """Indices of the image tokens kept, ascending; of those that any layer keeps, where layers differ."""
    return torch.unique(context.kept_indices).tolist()


def would_keep(context: CompressedContext, retention: float) -> list[int]:
    """Indices of the image tokens that the context's own selection would keep at that share, ascending.

    Raises:
        InvalidRequestError: the selection cannot tell from what is stored of the scores.
    """
    if retention == context.identity.retention:
        return kept_by(context)
    name = context.identity.selection.partition("/")[0]
    # What is stored is the mean over the scoring window: to a selection it is a window of one layer.
    scores = ImageScores(context.scores[None], (0,), context.grid, num_layers=context.keys.shape[0])
    try:
        chosen = get_selection(name).select(scores, kept_count(retention, context.image_tokens))
    except (ValueError, PruningError) as error:
        raise InvalidRequestError(
            f"retention: this context was made with the selection {name!r}, of which nothing can be told for another"
            f" retention than its own {context.identity.retention:g}, since each token's scores are stored as one mean.",
            param="retention",
        ) from error
    kept: list[int] = chosen[0].tolist()
    return kept
