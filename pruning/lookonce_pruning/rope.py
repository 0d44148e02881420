"""Move cached keys to other positions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lookonce_pruning.attention import Observing
from lookonce_pruning.errors import UnsupportedModelError

# Types whose frequencies do not depend on how long the sequence is.
_FIXED_ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def rotate_keys(keys: Tensor, inv_freq: Tensor, delta: int) -> Tensor:
    """Return keys as computed `delta` positions later; same shape and dtype.

    The arithmetic is float32.

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
    """Return the RoPE frequencies of the text model, [rotary_dim / 2].

    They are in radians a position, one set for all layers.

    Raises UnsupportedModelError when there is none, or several that differ, or when they change with the length.
    """
    frequencies: list[Tensor] = []
    for module in _text_model(model).modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name.startswith("original_") or not name.endswith("inv_freq"):
                continue
            rope_type = getattr(module, "rope_type", "default")
            if rope_type not in _FIXED_ROPE_TYPES:
                raise UnsupportedModelError(f"RoPE type {rope_type!r}; supported: {', '.join(_FIXED_ROPE_TYPES)}")
            if not any(torch.equal(buffer, other) for other in frequencies):
                frequencies.append(buffer)
    if not frequencies:
        raise UnsupportedModelError("the text model has no rotary position embedding")
    if len(frequencies) > 1:
        raise UnsupportedModelError(f"the text model has {len(frequencies)} different sets of RoPE frequencies")
    return frequencies[0]


def inv_freq_of_config(config: PreTrainedConfig) -> Tensor:
    """Return the RoPE frequencies of a configuration, [rotary_dim / 2].

    They are in radians a position.

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
    """Check on the model that its keys can be moved.

    Attention must depend on differences of positions alone.

    A few tokens are prefilled at several places, the last of the model's positions among them, which costs nothing, as
    positions are given. In every layer `rotate_keys` must turn the keys of one place into those of another, and queries
    alike. A self-check at retention 1.0 cannot see this for plain RoPE: nothing is dropped and the rotation is by zero.

    Raises UnsupportedModelError for layers without positions, learned absolute positions, other rotary conventions
    (such as the interleaved one), queries scaled by their absolute position, frequencies that change with the length,
    and layers that keep no keys.
    """
    tokens = 8
    here = _prefill(model, torch.arange(tokens))
    for start in sorted({61, max(61, last_position(model.config) + 1 - tokens)}):
        there = _prefill(model, torch.arange(start, start + tokens))
        for layer, (before, after) in enumerate(zip(here, there, strict=True)):
            for what, was, is_now in (("keys", before.keys, after.keys), ("queries", before.queries, after.queries)):
                if was is None or is_now is None:
                    raise UnsupportedModelError(f"layer {layer} has no {what}: it is not an ordinary attention layer")
                check_moved(f"layer {layer}: {what}", was, is_now, inv_freq, start)


def check_moved(what: str, before: Tensor, after: Tensor, inv_freq: Tensor, delta: int) -> None:
    """Check that `after` is `before`, rotated by `delta` positions.

    what: they are, for people
    before, after: [..., tokens, head_dim], keys or queries after RoPE
    inv_freq: [rotary_dim / 2], radians a position

    Raises UnsupportedModelError when it is not.
    """
    tolerance = _moved_tolerance(before.dtype, delta)
    expected, actual = rotate_keys(before, inv_freq, delta).float(), after.float()
    grown = float(actual.norm() / expected.norm())
    error = float((grown * expected - actual).norm() / actual.norm())
    if not error < tolerance:
        raise UnsupportedModelError(
            f"{what} moved by {delta} positions are off by {error:.0%} of their length; its positions are not"
            " rotate-half RoPE over all tokens"
        )
    if not abs(grown - 1) < min(tolerance, 0.02):  # lengths do not depend on angles, however large and inexact
        raise UnsupportedModelError(
            f"{what} are {grown:.3f} times as long {delta} positions later: they are scaled by their absolute position,"
            " which is another one after a context than after the whole image"
        )


def last_position(config: PreTrainedConfig) -> int:
    """Return the last position that a model is used at.

    It was made for it, and float32 still tells it from its neighbours.

    At 2**20 the angle of the fastest dimension is off by up to 0.06 radians in the model itself.
    """
    positions: int = config.get_text_config().max_position_embeddings
    return min(positions, 2**20) - 1


def _moved_tolerance(dtype: torch.dtype, delta: int) -> float:
    """Return the error allowed in moved keys, as a share of their length.

    Wrong rotations are off by about 1.

    dtype: that the model computes in
    delta: positions; the model's angles are products in float32, whose last bits are worth the more the farther it is
    """
    return (1e-3 if dtype == torch.float32 else 0.1) + abs(delta) * 2.0**-24


def _text_model(model: PreTrainedModel) -> nn.Module:
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    return decoder


class _Layer(NamedTuple):
    """A layer's queries and keys, [1, heads, tokens, head_dim], after RoPE."""

    queries: Tensor | None  # as transformers' attention interface is given them
    keys: Tensor | None  # as the cache keeps them


class _Queries(Observing):
    """Keep the queries of each layer."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.by_layer: dict[int, Tensor] = {}

    def observe(
        self, layer: int, query: Tensor, key: Tensor, attention_mask: Tensor | None, scaling: float | None
    ) -> Tensor | None:
        """See `AttentionHook.observe`."""
        self.by_layer[layer] = query
        return attention_mask


def _prefill(model: PreTrainedModel, positions: Tensor) -> list[_Layer]:
    """Prefill tokens 0, 1, ... at `positions` [tokens]; return each layer."""
    cache = DynamicCache()
    embeddings = model.get_input_embeddings()
    ids = torch.arange(len(positions), device=model.device)[None]
    with _Queries(model) as queries:
        _text_model(model)(
            inputs_embeds=embeddings(ids),
            position_ids=positions[None].to(model.device),
            past_key_values=cache,
            use_cache=True,
        )
    return [_Layer(queries.by_layer.get(i), getattr(layer, "keys", None)) for i, layer in enumerate(cache.layers)]
