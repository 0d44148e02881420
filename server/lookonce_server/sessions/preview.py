"""List the image tokens that a context keeps, at its retention or another."""

import torch

from lookonce_cache import CompressedContext
from lookonce_pruning import ImageScores, PruningError, TileLayout, get_selection, kept_count
from lookonce_server.errors import InvalidRequestError
from lookonce_server.sessions.context_builder import selection_method


def kept_indices(context: CompressedContext) -> list[int]:
    """Return the indices of the image tokens that any layer keeps, ascending."""
    indices: list[int] = torch.unique(context.kept_indices).tolist()
    return indices


def kept_at_retention(context: CompressedContext, retention: float) -> list[int]:
    """Return the indices that the context's own selection keeps at a retention.

    Raises:
        InvalidRequestError: the selection needs more than the stored scores.
    """
    if retention == context.identity.retention:
        return kept_indices(context)
    method = selection_method(context.identity)
    # Stored is the mean over the scoring window: to a selection that is a window of one layer.
    layout = TileLayout.of(context.layout) if context.layout else None
    scores = ImageScores(context.scores[None], (0,), context.grid, context.keys.shape[0], layout)
    try:
        kept = get_selection(method).select(scores, kept_count(retention, context.image_tokens))
    except (ValueError, PruningError) as error:
        raise InvalidRequestError(
            f"retention: the selection {method!r} of this context needs more than the one mean score per token that is"
            f" stored, so only what it keeps at {context.identity.retention:g} is known.",
            param="retention",
        ) from error
    indices: list[int] = kept[0].tolist()
    return indices
