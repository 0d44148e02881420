"""Images to look at: each layer's map, and each word's, drawn over the picture."""

import io
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from lookonce_evaluation.grounding.layers import Band, with_bands
from lookonce_evaluation.grounding.looking import Looked
from lookonce_evaluation.grounding.words import Word
from lookonce_server.sessions.heatmap import TokenMap, draw_grid, draw_over

MOST_WORDS = 12
_WIDTH = 224  # pixels
_COLOURS = 256  # a PNG of so many is a third of the size


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


def example(looked: Looked, bands: list[Band], top: int) -> Example:
    """Draw one image."""
    described = looked.described
    return Example(
        looked.case.name,
        described.text,
        _png(looked.case.image.resize(_size(looked.case.image), Image.Resampling.BICUBIC)),
        [_overlay(looked, one, f"layer {i}", 0, None) for i, one in enumerate(described.scores().values)],
        _words(looked, bands, top),
    )


def _words(looked: Looked, bands: list[Band], top: int) -> list[WordShown]:
    if looked.reading and looked.reading.words and looked.area and looked.case.scene:
        objects = looked.case.scene.objects
        shown = [
            (one.word, f"{one.kind} of the {objects[one.object].phrase}", looked.patches[one.object])
            for one in looked.reading.words[:MOST_WORDS]
        ]
        return [_word(looked, word, bands, top, about, patches) for word, about, patches in shown]
    return [_word(looked, word, bands, top, "", None) for word in _looking(looked)]


def _looking(looked: Looked) -> list[Word]:
    """The words whose rows pay the image most attention, in the text's order."""
    paid = {word: float(looked.maps(word, "generating").sum(-1).mean()) for word in looked.words}
    return sorted(sorted(paid, key=lambda word: -paid[word])[:MOST_WORDS], key=lambda word: word.at)


def _word(looked: Looked, word: Word, bands: list[Band], top: int, about: str, patches: Tensor | None) -> WordShown:
    means = with_bands(looked.maps(word, "generating"), bands)[-len(bands) :]
    shown = zip(bands, means, strict=True)
    return WordShown(word.text, about, [_overlay(looked, one, band.label, top, patches) for band, one in shown])


def _overlay(looked: Looked, scores: Tensor, layers: str, top: int, patches: Tensor | None) -> Overlay:
    """One map `[image tokens]`, its `top` patches framed."""
    grid = looked.described.prompt.grid
    highest: list[int] = scores.topk(min(top, len(scores))).indices.tolist()
    tokens = TokenMap(scores.view(grid).numpy(), highest)
    drawn = draw_over(looked.case.image, tokens, looked.area, _WIDTH) if looked.area else draw_grid(tokens, _WIDTH)
    shares = scores / scores.sum().clamp(min=1e-30)
    found = [Patch(i // grid[1], i % grid[1], round(float(shares[i]), 4)) for i in highest]
    on_object = None if patches is None else int(patches[torch.tensor(highest)].sum())
    return Overlay(
        layers,
        _png(Image.open(io.BytesIO(drawn)).quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)),
        found,
        on_object,
    )


def _size(image: Image.Image) -> tuple[int, int]:
    return _WIDTH, max(1, round(_WIDTH * image.height / image.width))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
