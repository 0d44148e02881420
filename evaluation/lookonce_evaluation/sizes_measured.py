"""Bytes of contexts that a server made: what `sizes` computes, measured."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from lookonce_cache import encode, open_store
from lookonce_evaluation.benching import Serving, plan_of, png
from lookonce_evaluation.shapes import write_llava
from lookonce_evaluation.tables import header, line
from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.settings import Settings


class Measured(NamedTuple):
    """One context in the store."""

    model: str
    image_tokens: int
    tokens: int  # stored
    whole: int  # bytes of the image's keys and values as the model computes them
    precision: str
    context: int  # bytes of the whole value

    @property
    def times(self) -> float:
        """How often the context goes into the whole."""
        return self.whole / self.context


async def measured(precisions: Sequence[str], retention: float) -> list[Measured]:
    """The scenes model, and random weights in the shape of a published one: LLaVA-1.5's image, a 0.9 B text model."""
    with tempfile.TemporaryDirectory() as folder:
        shape = write_llava(Path(folder) / "llava", 576)
        return [
            *await _contexts("scenes, float32", CHECKPOINT, torch.float32, precisions, retention),
            *await _contexts("LLaVA shape, 0.9 B, bfloat16", shape, torch.bfloat16, precisions, retention),
        ]


async def _contexts(
    name: str, path: Path, dtype: torch.dtype, precisions: Sequence[str], retention: float
) -> list[Measured]:
    settings = Settings()
    engine = await TransformersEngine.load(
        str(path), dtype=dtype, device="cpu", describe_prompt=settings.describe_prompt, max_running=1, max_queue=8
    )
    try:
        plan = plan_of(settings, engine.facts.num_layers, retention=retention, max_tokens=48)
        found = []
        for precision in precisions:
            context = await Serving.of(engine, open_store("memory://"), plan, precision).create(png(1))
            layers, heads, tokens, head_dim = context.keys.shape
            whole = 2 * layers * heads * context.image_tokens * head_dim * dtype.itemsize
            found.append(Measured(name, context.image_tokens, tokens, whole, precision, len(encode(context))))
        return found
    finally:
        await engine.close()


def markdown(rows: Sequence[Measured]) -> str:
    """The table."""
    columns = ("model", "image tokens", "stored tokens", "whole image, KiB", "precision", "context, KiB", "smaller")
    lines = [
        line([one.model, one.image_tokens, one.tokens, f"{one.whole / 1024:.0f}", one.precision, *_size(one)])
        for one in rows
    ]
    return "\n".join([header(*columns), *lines])


def _size(one: Measured) -> tuple[str, str]:
    return f"{one.context / 1024:.1f}", f"{one.times:.1f}x"
