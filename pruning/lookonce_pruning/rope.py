"""Moving cached keys to other positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lookonce_pruning.errors import UnsupportedModelError

# Types whose frequencies do not depend on how long the sequence is.
_FIXED_ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def rotate_keys(keys: Tensor, inv_freq: Tensor, delta: int) -> Tensor:
    """Keys as the model would have computed them `delta` positions later; same shape and dtype, float32 arithmetic.

    The rotate-half convention of Llama and Qwen: dimension i turns with dimension i + len(inv_freq). With partial
    rotary the dimensions from 2 * len(inv_freq) on stay as they are. YaRN's attention scaling is in the keys already.

    keys: [..., tokens, head_dim], after RoPE
    inv_freq: [rotary_dim / 2], radians a position
    delta: positions, of either sign

    Raises ValueError when inv_freq has more dimensions than the keys.
    """
    half = len(inv_freq)
    if 2 * half > keys.shape[-1]:
        raise ValueError(f"inv_freq of {half}: expected at most half of the keys' {keys.shape[-1]} dimensions")
    angle = inv_freq.to("cpu", torch.float64) * delta  # float32 would lose 1e-4 radians over some thousand positions
    cos, sin = (part.to(keys.device, torch.float32) for part in (angle.cos(), angle.sin()))
    first, second = keys[..., :half].float(), keys[..., half : 2 * half].float()
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return torch.cat((turned.to(keys.dtype), keys[..., 2 * half :]), dim=-1)


def find_inv_freq(model: PreTrainedModel) -> Tensor:
    """The one set of RoPE frequencies of the text model, [rotary_dim / 2], radians a position.

    Raises UnsupportedModelError when there is none, or several that differ, or when they change with the length.
    """
    found: list[Tensor] = []
    for module in _text_model(model).modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name.startswith("original_") or not name.endswith("inv_freq"):
                continue
            rope_type = getattr(module, "rope_type", "default")
            if rope_type not in _FIXED_ROPE_TYPES:
                raise UnsupportedModelError(f"RoPE type {rope_type!r}; supported: {', '.join(_FIXED_ROPE_TYPES)}")
            if not any(torch.equal(buffer, other) for other in found):
                found.append(buffer)
    if not found:
        raise UnsupportedModelError("the text model has no rotary position embedding")
    if len(found) > 1:
        raise UnsupportedModelError(f"the text model has {len(found)} different sets of RoPE frequencies")
    return found[0]


def inv_freq_of_config(config: PreTrainedConfig) -> Tensor:
    """The RoPE frequencies that a text model of this configuration has, [rotary_dim / 2], radians a position.

    For models that transformers does not run itself; see `find_inv_freq` for those it does.

    Raises UnsupportedModelError when there are none, or several, or when they change with the length.
    """
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    rope_type = rope.get("rope_type", "default")
    if "rope_theta" not in rope:
        kinds = [name for name, value in rope.items() if isinstance(value, dict)]
        raise UnsupportedModelError(f"the text model has {len(kinds)} sets of RoPE parameters, expected one")
    if rope_type not in _FIXED_ROPE_TYPES:
        raise UnsupportedModelError(f"RoPE type {rope_type!r}; supported: {', '.join(_FIXED_ROPE_TYPES)}")
    if rope_type != "default":
        inv_freq: Tensor = ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"))[0]
        return inv_freq
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotary_dim = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    return float(rope["rope_theta"]) ** -exponents


@torch.no_grad()
def check_rotation(model: PreTrainedModel, inv_freq: Tensor) -> None:
    """Try on the model itself that `rotate_keys` moves the keys of every layer: a few tokens, prefilled at two places.

    A self-check at retention 1.0 cannot see this for plain RoPE, where nothing is dropped and the rotation is by zero.

    Raises UnsupportedModelError for layers without positions, learned absolute positions, other rotary conventions
    (such as the interleaved one), and layers that keep no keys.
    """
    tokens, start = 8, 61
    here, there = (_prefilled_keys(model, torch.arange(first, first + tokens)) for first in (0, start))
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1  # wrong rotations are off by about 1
    for layer, (before, after) in enumerate(zip(here, there, strict=True)):
        if before is None or after is None:
            raise UnsupportedModelError(f"layer {layer} keeps no keys: it is not an attention layer")
        error = (rotate_keys(before, inv_freq, start) - after).float().norm() / after.float().norm()
        if not error < tolerance:
            raise UnsupportedModelError(
                f"layer {layer}: keys moved by {start} positions are off by {error:.0%} of their length; its positions"
                " are not rotate-half RoPE over all tokens"
            )


def _text_model(model: PreTrainedModel) -> nn.Module:
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    return decoder


def _prefilled_keys(model: PreTrainedModel, positions: Tensor) -> list[Tensor | None]:
    """Each layer's keys [1, kv_heads, tokens, head_dim] of tokens 0, 1, ... at `positions` [tokens]."""
    cache = DynamicCache()
    embeddings = model.get_input_embeddings()
    ids = torch.arange(len(positions), device=model.device)[None]
    _text_model(model)(
        inputs_embeds=embeddings(ids),
        position_ids=positions[None].to(model.device),
        past_key_values=cache,
        use_cache=True,
    )
    return [getattr(layer, "keys", None) for layer in cache.layers]
