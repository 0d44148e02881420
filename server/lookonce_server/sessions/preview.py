"""What a context keeps of its image, and what it would keep at another retention."""

import torch

from lookonce_cache import CompressedContext
from lookonce_pruning import ImageScores, PruningError, get_selection, kept_count
from lookonce_server.errors import InvalidRequestError


def kept_by(context: CompressedContext) -> list[int]:
    """Indices of the image tokens kept, ascending; of those that any layer keeps, where layers differ."""
    kept: list[int] = torch.unique(context.kept_indices).tolist()
    return kept


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
            f"retention: the selection {name!r} of this context wants more than the one mean score a token that is"
            f" stored: nothing can be told but what it keeps, at {context.identity.retention:g}.",
            param="retention",
        ) from error
    kept: list[int] = chosen[0].tolist()
    return kept
