"""The plots, on light and on dark ground."""

import io
from collections.abc import Callable, Sequence
from math import ceil

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lookonce_evaluation.analysis.attention.examples import Example
from lookonce_evaluation.analysis.attention.measures import GROUPS, MEASURES, ROWS, Band
from lookonce_evaluation.analysis.attention.observe import WORD_ROWS
from lookonce_evaluation.analysis.attention.summary import ALL, Summary

# Okabe and Ito's, which everybody can tell apart, as far as they stand out from white and from black.
_GROUP_COLOURS = dict(zip(GROUPS, ("#8c8c8c", "#cc79a7", "#3d8fd1", "#e69f00", "#009e73"), strict=True))
_CLASS_COLOURS = {"size": "#cc79a7", "color": "#d55e00", "kind": "#3d8fd1", "place": "#009e73"}
# The page's cards.
_DARK = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "#1b2027")
_CELL, _TITLE = 232, 60  # pixels of a sheet: a picture with its margin, and the room above it
_MAPS_A_ROW = 9  # the picture and eight layers


def png(draw: Callable[[], Figure], *, dark: bool = False) -> bytes:
    """Draw a figure, as a PNG."""
    file = io.BytesIO()
    with style.context(["dark_background", _DARK] if dark else "default"):
        draw().savefig(file, format="png", dpi=130)
    return file.getvalue()


def shares_figure(summary: Summary) -> Figure:
    """Plot how each layer divides its attention, and how it would were it divided evenly."""
    layers = len(summary.shares[ROWS[0]])
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, rows in zip(axes, ROWS, strict=True):
        base = [0.0] * (layers + 1)
        for i, group in enumerate(GROUPS):
            heights = [100 * float(share) for share in (*summary.shares[rows][:, i], summary.even[rows][i])]
            axis.bar([*range(layers), layers + 0.6], heights, bottom=base, color=_GROUP_COLOURS[group], label=group)
            base = [low + high for low, high in zip(base, heights, strict=True)]
        axis.set_title(f"{rows} rows", fontsize=10)
        axis.set_xlabel("layer")
        _layer_ticks(axis, layers)
        axis.set_xticks([*axis.get_xticks(), layers + 0.6], [*axis.get_xticklabels(), "even"])
    axes[0].set(ylabel="share of the attention, %", ylim=(0, 100))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9, title="paid to")
    return figure


def grounding_figure(summary: Summary) -> Figure:
    """Plot peaks in the word's object by layer."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    peak, everything = MEASURES.index("peak"), summary.classes[ALL]
    for axis, rows in zip(axes, WORD_ROWS, strict=True):
        layers = len(everything.image[rows])
        for kind, colour in _CLASS_COLOURS.items():
            if kind in summary.classes:
                means = summary.classes[kind]
                _line(axis, means.own[rows][peak, :layers], means.error[rows][peak, :layers], kind, colour)
        other = 100 * everything.other[rows][peak, :layers]
        axis.plot(range(layers), other.tolist(), color="gray", linestyle="--", label="another object's word")
        axis.axhline(100 * float(everything.chance[peak]), color="gray", linestyle=":", label="chance")
        axis.set(title=f"rows {rows} the word", xlabel="layer", ylim=(0, 102))
        axis.title.set_fontsize(10)
        axis.grid(alpha=0.25)
        _layer_ticks(axis, layers)
    axes[0].set_ylabel("peak in the word's object, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


def _line(axis: Axes, mean: Tensor, error: Tensor, label: str, colour: str) -> None:
    layers = range(len(mean))
    axis.plot(layers, (100 * mean).tolist(), color=colour, marker="o", markersize=3.5, label=label)
    low, high = ((100 * (mean + sign * error)).clamp(0, 100) for sign in (-1, 1))
    axis.fill_between(layers, low.tolist(), high.tolist(), color=colour, alpha=0.18, linewidth=0)


def _layer_ticks(axis: Axes, layers: int) -> None:
    ticks = range(0, layers, ceil(layers / 10))
    axis.set_xticks(list(ticks), [str(tick) for tick in ticks])


def maps_figure(examples: Sequence[Example]) -> Figure:
    """Show each example's picture, and the attention of each layer, over the rows that generate the description."""
    cells = [[("picture", each.picture), *((o.layers, o.png) for o in each.layers)] for each in examples]
    return _pictures([row[i : i + _MAPS_A_ROW] for row in cells for i in range(0, len(row), _MAPS_A_ROW)])


def words_figure(example: Example, bands: Sequence[Band]) -> Figure:
    """Show an example's words, and where they look in each band, one below the other."""
    rows = [[(f"{w.text}\n{band.name}", w.overlays[i].png) for w in example.words] for i, band in enumerate(bands)]
    return _pictures(rows)


def _pictures(rows: Sequence[Sequence[tuple[str, bytes]]]) -> Figure:
    """Pictures in rows, each with its title above it; there may be none."""
    columns = max(1, *map(len, rows))
    sheet = Image.new("RGB", (columns * _CELL, len(rows) * (_CELL + _TITLE)), "white")
    figure = Figure(figsize=(1.15 * columns, 1.15 * sheet.height / sheet.width * columns))
    axis = figure.add_axes((0, 0, 1, 1))  # for all pictures: an axis each takes seconds
    for y, row in enumerate(rows):
        for x, (title, content) in enumerate(row):
            left, top = x * _CELL, y * (_CELL + _TITLE) + _TITLE
            picture = Image.open(io.BytesIO(content)).convert("RGB")
            picture.thumbnail((_CELL - 8, _CELL - 8))
            sheet.paste(picture, (left + (_CELL - picture.width) // 2, top))
            axis.text(left + _CELL / 2, top - 6, title, ha="center", va="bottom", fontsize=7, parse_math=False)
    axis.imshow(sheet)
    axis.set_axis_off()
    return figure
