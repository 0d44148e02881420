"""What the images say together: a pure function of their records."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.grounding.looking import WORD_ROWS
from lookonce_evaluation.grounding.shares import ROWS
from lookonce_evaluation.grounding.words import CLASSES

ALL = "all"


class Means(NamedTuple):
    """The words of one class."""

    words: int
    compared: int  # those in whose image another object has words of the class
    chance: Tensor  # [measures]
    own: dict[str, Tensor]  # by WORD_ROWS: [measures, layers + bands]
    error: dict[str, Tensor]  # like own: half of the 95% interval
    other: dict[str, Tensor]  # like own, of the words compared; NaN where there are none
    image: dict[str, Tensor]  # [layers]: the share of the words' attention that goes to the image


class Summary(NamedTuple):
    """All images together."""

    images: int
    shares: dict[str, Tensor]  # by ROWS: [layers, groups]
    even: dict[str, Tensor]  # by ROWS: [groups]
    mentions: int
    right: int
    classes: dict[str, Means]  # of CLASSES that have words, and of all their words; none where nothing is grounded


def summarise(records: Sequence[dict[str, Any]]) -> Summary:
    """The means over images of the shares, and over words of the rest."""
    shares, even = (
        {rows: torch.tensor([one["shares"][rows][what] for one in records]).mean(0) for rows in ROWS}
        for what in ("attention", "even")
    )
    grounded = [one["grounding"] for one in records if one["grounding"]]
    by_class = {kind: [one["classes"][kind] for one in grounded if kind in one["classes"]] for kind in CLASSES}
    classes = {kind: _means(some) for kind, some in by_class.items() if some}
    if classes:
        together = [[one["classes"][kind] for kind in one["classes"]] for one in grounded if one["classes"]]
        classes[ALL] = _means([_joined(some) for some in together])
    mentions, right = (sum(one[what] for one in grounded) for what in ("mentions", "right"))
    return Summary(len(records), shares, even, mentions, right, classes)


def _joined(sums: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums of an image's classes as those of one."""
    first = sums[0]
    if isinstance(first, dict):
        return {key: _joined([one[key] for one in sums]) for key in first}
    total: Any = torch.tensor(sums, dtype=torch.float64).sum(0).tolist()
    return total


def _means(sums: list[dict[str, Any]]) -> Means:
    words, compared = (torch.tensor([one[what] for one in sums], dtype=torch.float64) for what in ("words", "compared"))
    own = {rows: torch.tensor([one[rows]["own"] for one in sums], dtype=torch.float64) for rows in WORD_ROWS}
    other, image = (
        {rows: torch.tensor([one[rows][what] for one in sums], dtype=torch.float64).sum(0) for rows in WORD_ROWS}
        for what in ("other", "image")
    )
    return Means(
        int(words.sum()),
        int(compared.sum()),
        torch.tensor([one["chance"] for one in sums], dtype=torch.float64).sum(0) / words.sum(),
        {rows: values.sum(0) / words.sum() for rows, values in own.items()},
        {rows: _half_width(values, words) for rows, values in own.items()},
        {rows: values / compared.sum() for rows, values in other.items()},
        {rows: values / words.sum() for rows, values in image.items()},
    )


def _half_width(sums: Tensor, words: Tensor) -> Tensor:
    """Half of the 95% interval of a mean over words, of which those of one image are alike: the ratio estimator's.

    Args:
        sums: [images, ...], over the words of each.
        words: [images], how many they are.
    """
    images = len(words)
    if images < 2:
        return torch.full(sums.shape[1:], torch.nan)
    mean = sums.sum(0) / words.sum()
    rest = sums - mean * words.view(-1, *[1] * (sums.dim() - 1))
    return 1.96 * (rest.square().sum(0) * images / (images - 1)).sqrt() / words.sum()
