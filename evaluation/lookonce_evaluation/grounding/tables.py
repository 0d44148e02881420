"""The tables, for Markdown and HTML alike."""

from typing import NamedTuple

from torch import Tensor

from lookonce_evaluation.grounding.layers import Band
from lookonce_evaluation.grounding.looking import WORD_ROWS
from lookonce_evaluation.grounding.measures import MEASURES
from lookonce_evaluation.grounding.shares import GROUPS, ROWS
from lookonce_evaluation.grounding.summary import Summary
from lookonce_evaluation.tables import header, line


class Table(NamedTuple):
    """A table; each row's first cell is its name."""

    caption: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The caption, and the table below it."""
        return "\n".join([f"{self.caption}\n", header(*self.head), *map(line, self.rows)])


def shares_table(summary: Summary) -> Table:
    """How each layer divides its attention."""
    columns = [(rows, group) for rows in ROWS for group in GROUPS if (rows, group) != ("query", "generated")]
    layers = len(summary.shares[ROWS[0]])

    def row(name: str, shares: dict[str, Tensor]) -> list[str]:
        return [name, *(percent(shares[rows][GROUPS.index(group)]) for rows, group in columns)]

    return Table(
        "Share of the attention, %, that rows of one kind (before the colon) pay tokens of another: mean over images.",
        ["layer", *(f"{rows}: {group}" for rows, group in columns)],
        [row(str(i), {rows: summary.shares[rows][i] for rows in ROWS}) for i in range(layers)]
        + [row("divided evenly", summary.even)],
    )


def bands_table(summary: Summary, bands: list[Band], top: int) -> Table:
    """Every measure of the maps averaged over each band, by class of word, of the rows that generate the word."""
    rows = []
    for kind, means in summary.classes.items():
        own, error, other = (by_rows["generating"] for by_rows in (means.own, means.error, means.other))
        first = own.shape[1] - len(bands)
        for i, band in enumerate(bands, first):
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


def layers_table(summary: Summary, bands: list[Band]) -> Table:
    """The peaks of each layer and band, of both kinds of row."""
    means = summary.classes
    units = next(iter(means.values())).own["generating"].shape[1]
    names = [str(i) for i in range(units - len(bands))] + [band.label for band in bands]
    columns = [(rows, kind) for rows in WORD_ROWS for kind in means]
    peak = MEASURES.index("peak")
    return Table(
        "Peak in object, %, of the rows that generate a word and of those that read it.",
        ["layer", *(f"{rows}: {kind}" for rows, kind in columns)],
        [[name, *(percent(means[kind].own[rows][peak, i]) for rows, kind in columns)] for i, name in enumerate(names)],
    )


def tables_of(summary: Summary, bands: list[Band], top: int) -> list[Table]:
    """All of them; those of grounding where something was grounded."""
    grounding = [bands_table(summary, bands, top), layers_table(summary, bands)] if summary.classes else []
    return [shares_table(summary), *grounding]


def percent(share: Tensor | float) -> str:
    """As in "12.3"; "-" where there is none."""
    value = 100 * float(share)
    return f"{value:.1f}" if value == value else "-"
