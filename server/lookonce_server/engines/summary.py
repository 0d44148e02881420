"""Tell what a model's images and contexts weigh, before there are any.

Only the processor is run, on plain pictures of common sizes: what an image weighs depends on nothing else.
"""

from math import prod
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image

from lookonce_cache.format.quantization import Role, parts_of
from lookonce_cache.identity import PRECISIONS
from lookonce_pruning import attention_layers, kept_count
from lookonce_server.engines.prompts import PromptRenderer
from lookonce_server.errors import InvalidImageError, ModelRefusedError

SIZES = ((224, 224), (448, 448), (896, 672), (1344, 1008))
"""Width and height of common pictures."""
RETENTIONS = (0.02, 0.05, 0.1, 0.25, 1.0)
_ROLES: tuple[Role, Role] = ("keys", "values")


class ContextSize(NamedTuple):
    """The context of one picture, at one retention."""

    retention: float
    stored_tokens: int  # without those before the image
    bytes: dict[str, int]  # by precision


class ModelSummary(NamedTuple):
    """What a model is, and what its images and contexts weigh."""

    architecture: str  # class of the checkpoint's configuration
    family: str  # its `model_type`
    dtype: str  # of keys and values at the precision "native"
    image_tokens: dict[tuple[int, int], int]  # by a picture's width and height, of those that the model takes
    context_sizes: list[ContextSize]  # of the first of these pictures
    state_bytes: int  # of recurrent layers, in each of these sizes
    video: Literal["video", "images"]  # what a video is to the model: tokens of its own, or its frames as images


class _Count(NamedTuple):
    image: int
    prompt: int
    before: int  # the image


def summarize(
    prompts: PromptRenderer,
    config: Any,
    *,
    describe_prompt: str,
    dtype: torch.dtype,
    state_bytes: int = 0,
    counts: bool = True,
) -> ModelSummary:
    """Count the tokens of common pictures, and the bytes of their contexts.

    Args:
        prompts: of the model.
        config: the model's.
        describe_prompt: of the server's settings.
        dtype: of keys and values.
        state_bytes: of the states of the recurrent layers, in each context.
        counts: whether the processor at hand counts as the engine does; no picture is counted if not.

    Raises:
        ModelRefusedError: the prompt of a picture has no image tokens.
    """
    found = {size: count for size in SIZES if counts and (count := _count(prompts, describe_prompt, size))}
    architecture, *_ = getattr(config, "architectures", None) or [""]
    sizes = _sizes(config.get_text_config(), next(iter(found.values())), dtype, state_bytes) if found else []
    return ModelSummary(
        architecture=architecture,
        family=config.model_type,
        dtype=str(dtype).removeprefix("torch."),
        image_tokens={size: count.image for size, count in found.items()},
        context_sizes=sizes,
        state_bytes=state_bytes,
        video="images" if prompts.media.video_id is None else "video",
    )


def _count(prompts: PromptRenderer, describe_prompt: str, size: tuple[int, int]) -> _Count | None:
    """Count the tokens of a picture's describe turn; return None if the model does not take such a picture."""
    try:
        prompt = prompts.describe(describe_prompt, Image.new("RGB", size, "gray"))
    except InvalidImageError:
        return None
    columns = prompt.image_positions
    if not len(columns):
        raise ModelRefusedError("The chat template or the processor puts no image tokens in the prompt.")
    return _Count(len(columns), prompt.tokens, int(columns[0]))


def _sizes(text_config: Any, count: _Count, dtype: torch.dtype, state_bytes: int) -> list[ContextSize]:
    heads = getattr(text_config, "num_key_value_heads", None) or text_config.num_attention_heads
    head_dim = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    sizes = []
    for retention in RETENTIONS:
        tokens = kept_count(retention, count.image) + count.prompt - count.image - count.before
        shape = (len(attention_layers(text_config)), heads, tokens, head_dim)
        weights = {name: _bytes(name, shape, dtype) + state_bytes for name in PRECISIONS}
        sizes.append(ContextSize(retention, tokens, weights))
    return sizes


def _bytes(precision: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> int:
    parts = [part for role in _ROLES for part in parts_of(role, precision, dtype, shape)]
    return sum(prod(part.shape) * part.dtype.itemsize for part in parts)
