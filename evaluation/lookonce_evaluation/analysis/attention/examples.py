"""Images to look at: each layer's map, and each word's, drawn over the picture."""

import io
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from lookonce_evaluation.analysis.attention.measures import Band, with_bands
from lookonce_evaluation.analysis.attention.observe import Observation
from lookonce_evaluation.metrics.captions import Word
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
    """The first words that are about an object, else those whose rows pay the image most attention."""

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
    """One map `[image tokens]`, its `top` patches framed."""
    grid = seen.described.prompt.grid
    highest: list[int] = scores.topk(min(top, len(scores))).indices.tolist()
    tokens = TokenMap(scores.view(grid).numpy(), highest)
    drawn = draw_over(seen.case.image, tokens, seen.area, _WIDTH) if seen.area else draw_grid(tokens, _WIDTH)
    picture = Image.open(io.BytesIO(drawn)).quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    shares = scores / scores.sum().clamp(min=1e-30)
    found = [Patch(i // grid[1], i % grid[1], round(float(shares[i]), 4)) for i in highest]
    return Overlay(layers, _png(picture), found, None if patches is None else int(patches[torch.tensor(highest)].sum()))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
