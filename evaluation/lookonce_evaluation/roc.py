"""How well a number tells one kind of question from another: ROC curves' areas, with a bootstrap over images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lookonce_evaluation.paired import RESAMPLES

_AT_ONCE = 100  # resamples, which bounds memory


def auc(signal: Tensor, positive: Tensor, times: Tensor) -> Tensor:
    """The chance that a positive has less of the signal than a negative, ties counted half: `[draws]`.

    Args:
        signal: `[questions]`.
        positive: `[questions]`, bool.
        times: `[draws, questions]`, how often each question is in a draw.
    """
    values, place = signal.unique(return_inverse=True)
    weights = [torch.zeros(len(times), len(values)).index_add_(1, place[one], times[:, one]) for one in _both(positive)]
    positives, negatives = weights
    more = negatives.sum(1, keepdim=True) - negatives.cumsum(1)
    return (positives * (more + negatives / 2)).sum(1) / (positives.sum(1) * negatives.sum(1))


def auc_with_interval(signal: Tensor, positive: Tensor, images: Sequence[int]) -> tuple[float, float, float] | None:
    """The area, and its 95% interval; None where there are no positives, or nothing else.

    Args:
        signal: `[questions]`.
        positive: `[questions]`, bool.
        images: which image each question is about, from 0 on.
    """
    if positive.all() or not positive.any():
        return None
    image = torch.tensor(images)
    count = int(image.max()) + 1
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for start in range(0, RESAMPLES, _AT_ONCE):
        picks = torch.randint(count, (min(_AT_ONCE, RESAMPLES - start), count), generator=generator)
        times = torch.zeros(len(picks), count).scatter_add_(1, picks, torch.ones(picks.shape))
        drawn.append(auc(signal, positive, times[:, image]))
    found = torch.cat(drawn)
    low, high = torch.quantile(found[~found.isnan()], torch.tensor([0.025, 0.975])).tolist()
    return float(auc(signal, positive, torch.ones(1, len(signal)))[0]), low, high


def _both(positive: Tensor) -> tuple[Tensor, Tensor]:
    return positive.nonzero().flatten(), (~positive).nonzero().flatten()
