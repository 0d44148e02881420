"""Figures of attention: the maps of layers and words, and the plots."""

import io
from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lookonce_evaluation.analysis.attention.observe import (
    GROUPS,
    MEASURES,
    ROWS,
    WORD_ROWS,
    Band,
    Observation,
    with_bands,
)
from lookonce_evaluation.analysis.attention.summary import ALL, Summary
from lookonce_evaluation.metrics.captions import Word
from lookonce_evaluation.plots import panels
from lookonce_server.sessions.heatmap import TokenMap, draw_grid, draw_over

MOST_WORDS = 12
_WIDTH = 224  # pixels
_COLOURS = 256  # a PNG of so many is a third of the size
# Okabe and Ito's, which everybody can tell apart, as far as they stand out from white.
_GROUP_COLOURS = dict(zip(GROUPS, ("#8c8c8c", "#cc79a7", "#3d8fd1", "#e69f00", "#009e73"), strict=True))
_CLASS_COLOURS = {"size": "#cc79a7", "color": "#d55e00", "kind": "#3d8fd1", "place": "#009e73"}
_CELL, _TITLE = 232, 60  # pixels of a sheet: a picture with its margin, and the room above it
_MAPS_A_ROW = 9  # the picture and eight layers


class Patch(NamedTuple):
    """An image token and the share of the word's attention to the image that it draws."""

    row: int
    column: int
    share: float


class Overlay(NamedTuple):
    """A map over the picture."""

    layers: str
    png: bytes
    top: list[Patch]  # the highest first
    on_object: int | None  # how many of them are on the word's object, where it has one


class WordShown(NamedTuple):
    """A word, and where it looks in each band of layers."""

    text: str
    about: str  # its class and its object, as in "color of the large red circle"; empty where not known
    overlays: list[Overlay]


class Example(NamedTuple):
    """An image."""

    name: str
    description: str
    picture: bytes  # PNG
    layers: list[Overlay]  # means over the rows that generate the description
    words: list[WordShown]

    def as_json(self) -> dict[str, Any]:
        """Write the words with the patches that they look at."""
        words = [
            {"word": w.text, "about": w.about, "patches": {o.layers: [p._asdict() for p in o.top] for o in w.overlays}}
            for w in self.words
        ]
        return {"name": self.name, "description": self.description, "words": words}


def example(seen: Observation, bands: list[Band], top: int) -> Example:
    """Draw one image, its words' maps with their `top` patches framed."""
    image, described = seen.case.image, seen.described
    size = (_WIDTH, max(1, round(_WIDTH * image.height / image.width)))
    layers = [_overlay(seen, scores, f"layer {i}", 0, None) for i, scores in enumerate(described.scores().values)]
    picture = _png(image.resize(size, Image.Resampling.BICUBIC))
    return Example(seen.case.name, described.text, picture, layers, _words(seen, bands, top))


def _words(seen: Observation, bands: list[Band], top: int) -> list[WordShown]:
    """Take words about objects, else those that look most at the image."""

    def shown(word: Word, about: str, patches: Tensor | None) -> WordShown:
        means = with_bands(seen.maps(word, "generating"), bands)[-len(bands) :]
        maps = zip(bands, means, strict=True)
        return WordShown(word.text, about, [_overlay(seen, each, band.label, top, patches) for band, each in maps])

    if seen.reading and seen.reading.words and seen.area and seen.case.scene:
        phrases = [o.phrase for o in seen.case.scene.objects]
        return [
            shown(each.word, f"{each.kind} of the {phrases[each.object]}", seen.patches[each.object])
            for each in seen.reading.words[:MOST_WORDS]
        ]
    paid = {word: float(seen.maps(word, "generating").sum(-1).mean()) for word in seen.words}
    most = sorted(paid, key=lambda word: -paid[word])[:MOST_WORDS]
    return [shown(word, "", None) for word in sorted(most, key=lambda word: word.at)]


def _overlay(seen: Observation, scores: Tensor, layers: str, top: int, patches: Tensor | None) -> Overlay:
    """Draw one map `[image tokens]`, its `top` patches framed."""
    grid = seen.described.prompt.grid
    highest: list[int] = scores.topk(min(top, len(scores))).indices.tolist()
    if seen.area:
        area = seen.area.shares(*seen.case.image.size)
        drawn = draw_over(seen.case.image, TokenMap.of_grid(scores.numpy(), highest, grid, area), _WIDTH)
    else:
        drawn = draw_grid(TokenMap.of_grid(scores.numpy(), highest, grid), _WIDTH)
    picture = Image.open(io.BytesIO(drawn)).quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    shares = scores / scores.sum().clamp(min=1e-30)
    framed = [Patch(i // grid[1], i % grid[1], round(float(shares[i]), 4)) for i in highest]
    hits = None if patches is None else int(patches[torch.tensor(highest)].sum())
    return Overlay(layers, _png(picture), framed, hits)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def shares_figure(summary: Summary) -> Figure:
    """Plot how each layer divides its attention, and an even division."""
    layers = len(summary.shares[ROWS[0]])
    figure, axes = panels(1, 2, (9, 3.4))
    for axis, rows in zip(axes, ROWS, strict=True):
        base = [0.0] * (layers + 1)
        for i, group in enumerate(GROUPS):
            heights = [100 * float(share) for share in (*summary.shares[rows][:, i], summary.even[rows][i])]
            axis.bar([*range(layers), layers + 0.6], heights, bottom=base, color=_GROUP_COLOURS[group], label=group)
            base = [low + high for low, high in zip(base, heights, strict=True)]
        axis.set_title(f"{rows} rows", fontsize=10)
        axis.set_xlabel("layer")
        _layer_ticks(axis, layers, even=True)
    axes[0].set(ylabel="share of the attention, %", ylim=(0, 100))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9, title="paid to")
    return figure


def grounding_figure(summary: Summary) -> Figure:
    """Plot peaks in the word's object by layer."""
    figure, axes = panels(1, 2, (9, 3.4))
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


def _layer_ticks(axis: Axes, layers: int, *, even: bool = False) -> None:
    ticks = range(0, layers, ceil(layers / 10))
    axis.set_xticks([*ticks, *([layers + 0.6] if even else [])], [*map(str, ticks), *(["even"] if even else [])])


def maps_figure(examples: Sequence[Example]) -> Figure:
    """Show each example's picture, and the attention of each layer."""
    cells = [[("picture", each.picture), *((o.layers, o.png) for o in each.layers)] for each in examples]
    return _pictures([row[i : i + _MAPS_A_ROW] for row in cells for i in range(0, len(row), _MAPS_A_ROW)])


def words_figure(example: Example, bands: Sequence[Band]) -> Figure:
    """Show an example's words, and where they look in each band, one below the other."""
    rows = [[(f"{w.text}\n{band.name}", w.overlays[i].png) for w in example.words] for i, band in enumerate(bands)]
    return _pictures(rows)


def _pictures(rows: Sequence[Sequence[tuple[str, bytes]]]) -> Figure:
    """Draw rows of pictures, each with its title above it; there may be none."""
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
