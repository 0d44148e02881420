"""Compute the bytes of published models' contexts.

Each size is that of the value in the store: header, checksums, padding, kept indices and scores with the keys and
values. It is asked of the wire format itself, about a context whose tensors take no memory.
"""

import argparse
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from lookonce_cache import CompressedContext, QuantizedTensor
from lookonce_cache.format.header import encode_head
from lookonce_cache.format.quantization import Role, parts_of
from lookonce_evaluation.bench.synthetic import synthetic_context
from lookonce_evaluation.tables import record_table
from lookonce_pruning import kept_count

RETENTION = 0.05
TARGETS = {"native": 10, "int8": 25, "int4": 50}
"""How many times smaller than the image's whole keys and values a context is to be at least, by precision."""
DTYPE = torch.bfloat16
ROLES: tuple[Role, Role] = ("keys", "values")


class Image(NamedTuple):
    """An image as a model sees it."""

    size: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Model:
    """A published model's numbers.

    They are from its config.json, and its chat template around "Describe the image.".

    Attributes:
        before: tokens before the image, the same in all contexts: stored once for the model.
        after: tokens after the image, up to where the answer begins.
    """

    name: str
    layers: int
    kv_heads: int
    head_dim: int
    before: int
    after: int
    images: tuple[Image, ...]

    def bytes_a_token(self) -> int:
        """Return the bytes of a token's keys and values."""
        return 2 * self.layers * self.kv_heads * self.head_dim * DTYPE.itemsize


# Template tokens are counted with the models' own vocabularies; special tokens count one each, and so do the marks
# around the image. Sizes were chosen so that no model has to round them.
MODELS = (
    # llava-hf/llava-1.5-7b-hf: "USER: <image>\nDescribe the image. ASSISTANT:" with <s>, as transformers tokenises it.
    # Every image becomes 336 x 336, 24 x 24 patches.
    Model("LLaVA-1.5-7B", 32, 32, 128, 5, 11, (Image("any", 576),)),
    # OpenGVLab/InternVL2-Llama3-76B: <|im_start|>system\n, its Chinese system prompt of 42 tokens, <|im_end|>
    # <|im_start|>user\n<img> with <|begin_of_text|>; then </img>\nDescribe the image.<|im_end|><|im_start|>assistant\n.
    # 256 tokens a tile of 448 x 448; nine tiles and the thumbnail. (Kaduri et al. count 60 query tokens, here 61.)
    Model("InternVL2-76B", 80, 8, 128, 51, 10, (Image("448 x 448", 256), Image("1344 x 1344", 2560))),
    # Qwen/Qwen2.5-VL-7B-Instruct: the default system turn, <|im_start|>user\n<|vision_start|>; then
    # <|vision_end|>Describe the image.<|im_end|>\n<|im_start|>assistant\n. One token for 28 x 28 pixels.
    Model("Qwen2.5-VL-7B", 28, 4, 128, 15, 10, (Image("448 x 448", 256), Image("1344 x 1344", 2304))),
    # Qwen/Qwen3-VL-8B-Instruct: the same without a system turn. One token for 32 x 32 pixels.
    Model("Qwen3-VL-8B", 36, 8, 128, 4, 10, (Image("448 x 448", 196), Image("1344 x 1344", 1764))),
)


class Size(NamedTuple):
    """A context's size beside the image's whole keys and values, bytes."""

    whole: int
    context: int

    @property
    def ratio(self) -> float:
        """How often the context goes into the whole."""
        return self.whole / self.context


def size(model: Model, image: Image, precision: str, *, shared: bool) -> Size:
    """Compute the size of one context.

    Args:
        model: the model.
        image: the image.
        precision: the precision of its keys and values.
        shared: whether the tokens before the image are stored once for the model, or in each context.
    """
    context = empty_context(model, image, precision, shared=shared)
    return Size(image.tokens * model.bytes_a_token(), encode_head(context)[1].total)


def empty_context(model: Model, image: Image, precision: str, *, shared: bool) -> CompressedContext:
    """Make a context whose tensors take no memory; the arguments are those of `size`."""
    kept = kept_count(RETENTION, image.tokens)
    tokens = kept + model.after + (0 if shared else model.before)
    shape = (model.layers, model.kv_heads, tokens, model.head_dim)
    keys, values = (_without_memory(role, precision, shape) for role in ROLES)
    context = synthetic_context(
        keys, values, name="", kept=kept, image_tokens=image.tokens, before=model.before, after=model.after
    )
    return context if shared else replace(context, shared_tokens=0)


def _without_memory(role: Role, precision: str, shape: tuple[int, int, int, int]) -> QuantizedTensor:
    parts = parts_of(role, precision, DTYPE, shape)
    return QuantizedTensor(
        role, precision, DTYPE, shape, tuple(torch.empty((), dtype=part.dtype).expand(part.shape) for part in parts)
    )


def markdown() -> str:
    """Return the table of the computed sizes."""
    return record_table([_row(model, image, name) for model in MODELS for image in model.images for name in TARGETS])


def _row(model: Model, image: Image, precision: str) -> dict[str, object]:
    shared, each = (size(model, image, precision, shared=shared) for shared in (True, False))
    return {
        "model": model.name,
        "image": image.size,
        "tokens": image.tokens,
        "kept": kept_count(RETENTION, image.tokens),
        "after": model.after,
        "whole image, MiB": f"{shared.whole / 1024**2:.1f}",
        "precision": precision,
        "context, KiB": f"{shared.context / 1024:.0f}",
        "smaller": f"{shared.ratio:.1f}x",
        "target": f"{TARGETS[precision]}x: {'met' if shared.ratio >= TARGETS[precision] else 'missed'}",
        "with the tokens before": f"{each.ratio:.1f}x",
    }


def main() -> None:
    """Run the command."""
    argparse.ArgumentParser(prog="python -m lookonce_evaluation.bench.sizes", description=__doc__).parse_args()
    print(markdown())


if __name__ == "__main__":
    main()
