"""Scores divided by what a token draws anyway, or multiplied by the length of its values."""

from functools import partial

from torch import Tensor

from lookonce_evaluation.search.candidate import Candidate, Look, choosing, middle_half
from lookonce_pruning import get_selection


def candidates(num_layers: int) -> list[Candidate]:
    """In the middle half of the layers."""
    half = middle_half(num_layers)
    return [
        choosing("sinks", "divided by the prompt's attention", partial(contrast, layers=half, power=1.0)),
        choosing("sinks", "divided by its square root", partial(contrast, layers=half, power=0.5)),
        choosing("values", "times the values' length", partial(lengthened, layers=half)),
    ]


def contrast(look: Look, keep: int, *, layers: range, power: float) -> Tensor:
    """What describing pays a token, over what the prompt's own rows pay it: a sink draws from both."""
    values = look.scores(layers).values / look.scores(layers, "query").values.clamp_min(1e-9) ** power
    return get_selection("coverage").select(look.with_values(values, layers), keep)


def lengthened(look: Look, keep: int, *, layers: range) -> Tensor:
    """Attention to a short value adds little to the output (Guo et al., arXiv 2406.12335)."""
    columns = look.described.prompt.image_positions
    lengths = look.described.values[layers.start : layers.stop, :, columns].norm(dim=-1).mean(dim=1)
    values = look.scores(layers).values * lengths.to("cpu")
    return get_selection("coverage").select(look.with_values(values, layers), keep)
