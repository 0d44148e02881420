"""The images' records together, as numbers, tables and JSON."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.analysis.attention.observe import GROUPS, MEASURES, ROWS, WORD_ROWS, Band
from lookonce_evaluation.metrics.captions import ATTRIBUTES
from lookonce_evaluation.tables import table

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
    classes: dict[str, Means]  # of ATTRIBUTES that have words, and of all their words; none where nothing is grounded


class Table(NamedTuple):
    """A table, for Markdown and HTML alike; each row's first cell is its name."""

    caption: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Write the caption, and the table below it."""
        return f"{self.caption}\n\n{table(self.head, self.rows)}"


def summarise(records: Sequence[dict[str, Any]]) -> Summary:
    """Average the shares over images, and the rest over words."""
    attention, even = (
        {rows: torch.tensor([each["shares"][rows][what] for each in records]).mean(0) for rows in ROWS}
        for what in ("attention", "even")
    )
    grounded = [each["grounding"] for each in records if each["grounding"]]
    by_class = {kind: [g["classes"][kind] for g in grounded if kind in g["classes"]] for kind in ATTRIBUTES}
    classes = {kind: _means(sums) for kind, sums in by_class.items() if sums}
    if classes:
        classes[ALL] = _means([_joined(list(g["classes"].values())) for g in grounded if g["classes"]])
    mentions, right = (sum(g[what] for g in grounded) for what in ("mentions", "right"))
    return Summary(len(records), attention, even, mentions, right, classes)


def _joined(sums: list[Any]) -> Any:
    """Add the sums of an image's classes."""
    if isinstance(sums[0], dict):
        return {key: _joined([each[key] for each in sums]) for key in sums[0]}
    return torch.tensor(sums, dtype=torch.float64).sum(0).tolist()


def _means(sums: list[dict[str, Any]]) -> Means:
    def column(*keys: str) -> Tensor:
        values: list[Any] = sums
        for key in keys:
            values = [value[key] for value in values]
        return torch.tensor(values, dtype=torch.float64)

    words, compared = column("words"), column("compared")
    own = {rows: column(rows, "own") for rows in WORD_ROWS}
    return Means(
        int(words.sum()),
        int(compared.sum()),
        column("chance").sum(0) / words.sum(),
        {rows: values.sum(0) / words.sum() for rows, values in own.items()},
        {rows: _half_width(values, words) for rows, values in own.items()},
        {rows: column(rows, "other").sum(0) / compared.sum() for rows in WORD_ROWS},
        {rows: column(rows, "image").sum(0) / words.sum() for rows in WORD_ROWS},
    )


def _half_width(sums: Tensor, words: Tensor) -> Tensor:
    """Compute half of the 95% interval of a mean over words, clustered by image.

    Args:
        sums: `[images, ...]`, over the words of each.
        words: `[images]`, their number; the ratio estimator divides by it.
    """
    images = len(words)
    if images < 2:
        return torch.full(sums.shape[1:], torch.nan)
    mean = sums.sum(0) / words.sum()
    rest = sums - mean * words.view(-1, *[1] * (sums.dim() - 1))
    return 1.96 * (rest.square().sum(0) * images / (images - 1)).sqrt() / words.sum()


def percent(share: Tensor | float) -> str:
    """Write a share as in "12.3"; "-" where there is none."""
    value = 100 * float(share)
    return f"{value:.1f}" if value == value else "-"


def tables_of(summary: Summary, bands: Sequence[Band], top: int) -> list[Table]:
    """Write all tables; those of grounding where something was grounded."""
    grounding = [_bands_table(summary, bands, top), _layers_table(summary, bands)] if summary.classes else []
    return [_shares_table(summary), *grounding]


def _shares_table(summary: Summary) -> Table:
    columns = [(rows, group) for rows in ROWS for group in GROUPS if (rows, group) != ("query", "generated")]
    layers = [(str(i), {rows: summary.shares[rows][i] for rows in ROWS}) for i in range(len(summary.shares[ROWS[0]]))]
    return Table(
        "Share of the attention, %, that rows of one kind (before the colon) pay tokens of another: mean over images.",
        ["layer", *(f"{rows}: {group}" for rows, group in columns)],
        [
            [name, *(percent(divided[rows][GROUPS.index(group)]) for rows, group in columns)]
            for name, divided in (*layers, ("divided evenly", summary.even))
        ],
    )


def _bands_table(summary: Summary, bands: Sequence[Band], top: int) -> Table:
    rows = []
    for kind, means in summary.classes.items():
        own, error, other = (by_rows["generating"] for by_rows in (means.own, means.error, means.other))
        for i, band in enumerate(bands, own.shape[1] - len(bands)):
            cells = [
                f"{percent(own[m, i])} ± {percent(error[m, i])} / {percent(other[m, i])} / {percent(means.chance[m])}"
                for m in range(len(MEASURES))
            ]
            rows.append([kind, str(means.words), band.label, *cells])
    return Table(
        "How the attention of the rows that generate a word, averaged over a band of layers, agrees with the word's own"
        " object, %: with its 95% interval / what the words of the image's other objects give / chance.",
        ["words", "how many", "layers", "peak in object", f"top {top} in object", "IoU", "attention in object"],
        rows,
    )


def _layers_table(summary: Summary, bands: Sequence[Band]) -> Table:
    means, peak = summary.classes, MEASURES.index("peak")
    columns = [(rows, kind) for rows in WORD_ROWS for kind in means]
    return Table(
        "Peak in object, %, of the rows that generate a word and of those that read it.",
        ["layer", *(f"{rows}: {kind}" for rows, kind in columns)],
        [
            [str(name), *(percent(means[kind].own[rows][peak, i]) for rows, kind in columns)]
            for i, name in enumerate(units(summary, bands))
        ],
    )


def units(summary: Summary, bands: Sequence[Band]) -> list[int | str]:
    """Name what is measured of: each layer, and then each band."""
    return [*range(len(summary.shares[ROWS[0]])), *(band.label for band in bands)]


def as_json(summary: Summary, bands: Sequence[Band]) -> dict[str, Any]:
    """Write the figures of the tables and of the plots; of layers and then of bands."""
    shares = {rows: {"by_layer": _numbers(summary.shares[rows]), "even": _numbers(summary.even[rows])} for rows in ROWS}
    return {
        "groups": GROUPS,
        "shares": shares,
        "mentions": summary.mentions,
        "right_mentions": summary.right,
        "units": units(summary, bands),
        "grounding": {kind: _means_as_json(means) for kind, means in summary.classes.items()},
    }


def _means_as_json(means: Means) -> dict[str, Any]:
    chance = dict(zip(MEASURES, _numbers(means.chance), strict=True))
    values = {"own": means.own, "error": means.error, "other": means.other}
    by_rows = {
        rows: {m: {name: _numbers(each[rows][i]) for name, each in values.items()} for i, m in enumerate(MEASURES)}
        | {"image_share": _numbers(means.image[rows])}
        for rows in WORD_ROWS
    }
    return {"words": means.words, "compared": means.compared, "chance": chance, **by_rows}


def _numbers(values: Tensor) -> Any:
    """Round to lists, with None for NaN."""
    if values.dim() > 1:
        return [_numbers(each) for each in values]
    return [round(value, 5) if value == value else None for value in values.tolist()]
