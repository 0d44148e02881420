"""Move cached keys to other positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lookonce_pruning.architecture import attention_layers, check_architecture, empty_cache
from lookonce_pruning.attention import AttentionCall, Observing
from lookonce_pruning.errors import UnsupportedModelError

# Types whose frequencies do not depend on how long the sequence is; "dynamic" up to the trained length alone, which is
# also the last position that `last_position` allows.
_FIXED_ROPE_TYPES = ("default", "linear", "llama3", "yarn", "dynamic")
_PROBED = 61  # positions by which keys are moved to find out how a model rotates them


class Rope(NamedTuple):
    """How a model rotates its keys by their position.

    inv_freq: [1 or layers, rotary_dim / 2], radians a position, for all layers or for each; zeros where a layer has no
        positions (NoPE)
    interleaved: whether dimension 2i turns with dimension 2i + 1, as in GLM and Cohere; else dimension i turns with
        dimension i + rotary_dim / 2, as in Llama and Qwen
    """

    inv_freq: Tensor
    interleaved: bool = False

    def of_layer(self, layer: int) -> Rope:
        """Return the rotation of one layer, for keys without a dimension for layers."""
        return self if len(self.inv_freq) == 1 else Rope(self.inv_freq[layer : layer + 1], self.interleaved)


def rotate_keys(keys: Tensor, rope: Rope, delta: int) -> Tensor:
    """Return keys as computed `delta` positions later; same shape and dtype.

    The arithmetic is float32. With partial rotary the dimensions from rotary_dim on stay as they are. YaRN's attention
    scaling is in the keys already.

    keys: [..., tokens, head_dim], after RoPE; [layers, kv_heads, tokens, head_dim] where layers rotate differently
    rope: of the model
    delta: positions, of either sign

    Raises ValueError when there are more frequencies than the keys have pairs, or not as many sets as layers.
    """
    sets, half = rope.inv_freq.shape
    if 2 * half > keys.shape[-1]:
        raise ValueError(f"inv_freq of {half}: expected at most half of the keys' {keys.shape[-1]} dimensions")
    if sets > 1 and (keys.ndim != 4 or len(keys) != sets):
        raise ValueError(f"keys {tuple(keys.shape)}: expected 4 dimensions, the first of {sets} layers")
    # float32 would lose 1e-4 radians over some thousand positions
    angle = rope.inv_freq.to("cpu", torch.float64)[:, None, None] * delta
    angle = angle[0, 0, 0] if sets == 1 else angle
    cos, sin = (part.to(keys.device, torch.float32) for part in (angle.cos(), angle.sin()))
    turning = keys[..., : 2 * half].float()
    first, second = (turning[..., ::2], turning[..., 1::2]) if rope.interleaved else turning.chunk(2, dim=-1)
    parts = (first * cos - second * sin, second * cos + first * sin)
    turned = torch.stack(parts, dim=-1).flatten(-2) if rope.interleaved else torch.cat(parts, dim=-1)
    return torch.cat((turned.to(keys.dtype), keys[..., 2 * half :]), dim=-1)


@torch.no_grad()
def find_rope(model: PreTrainedModel) -> Rope:
    """Find out how the text model rotates its keys, by moving some.

    Which of the model's frequencies are a layer's, and which dimensions turn together, is measured: names differ.

    Raises UnsupportedModelError when the model has no rotary positions, or some that change with the length, or layers
    that a context cannot hold. Whether the best fit is exact is for `check_rotation` to say.
    """
    check_architecture(model.config.get_text_config())
    frequencies = _frequencies(model)
    near, far = (_prefill(model, torch.arange(start, start + 2)) for start in (0, _PROBED))
    before, after = ([layer.keys for layer in layers if layer.keys is not None] for layers in (near, far))
    if len({keys.shape for keys in before}) != 1:
        raise UnsupportedModelError("its layers have keys of different sizes, of which a context holds one")
    return fit_rope([*frequencies, torch.zeros_like(frequencies[0])], before, after, _PROBED)


def fit_rope(frequencies: Sequence[Tensor], before: Sequence[Tensor], after: Sequence[Tensor], delta: int) -> Rope:
    """Return the rotation by which keys come closest to those of `delta` positions later.

    frequencies: each [rotary_dim / 2], of which every layer has one
    before, after: of each layer, [..., tokens, head_dim], after RoPE

    Raises UnsupportedModelError when layers rotate differently many dimensions.
    """
    fits: list[tuple[float, list[Tensor], bool]] = []
    for interleaved in (False, True):
        ropes = [Rope(each[None], interleaved) for each in frequencies]
        errors = [
            [_distance(rotate_keys(was, rope, delta), now) for rope in ropes]
            for was, now in zip(before, after, strict=True)
        ]
        best = [frequencies[layer.index(min(layer))] for layer in errors]
        fits.append((sum(map(min, errors)), best, interleaved))
    _, best, interleaved = min(fits, key=lambda fit: fit[0])
    if len({len(each) for each in best}) > 1:
        raise UnsupportedModelError("its layers rotate different numbers of dimensions, of which a context knows one")
    same = all(torch.equal(each, best[0]) for each in best)
    return Rope(best[0][None] if same else torch.stack(best), interleaved)


def _frequencies(model: PreTrainedModel) -> list[Tensor]:
    """Return the RoPE frequencies of the text model, each [rotary_dim / 2].

    Raises UnsupportedModelError when there are none, or when they change with the length.
    """
    frequencies: list[Tensor] = []
    for module in _text_model(model).modules():
        for name, buffer in module.named_buffers(recurse=False):
            if not name.endswith("inv_freq") or name.endswith("original_inv_freq"):
                continue
            types = getattr(module, "rope_type", "default")
            for rope_type in types.values() if isinstance(types, dict) else (types,):
                _check_type(rope_type)
            if not any(torch.equal(buffer, other) for other in frequencies):
                frequencies.append(buffer)
    if not frequencies:
        raise UnsupportedModelError("the text model has no rotary position embedding (RoPE)")
    return frequencies


def rope_of_config(config: PreTrainedConfig) -> Rope:
    """Return the rotation that a configuration speaks of: all layers alike, not interleaved.

    For models that transformers does not run itself; see `find_rope` for those it does. Whether they interleave is not
    in a configuration: see `fit_rope`.

    Raises UnsupportedModelError when there are none, or several, or when they change with the length.
    """
    check_architecture(config)
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    rope_type = rope.get("rope_type", "default")
    if "rope_theta" not in rope:
        kinds = [name for name, value in rope.items() if isinstance(value, dict)]
        raise UnsupportedModelError(
            f"the text model has {len(kinds)} sets of RoPE parameters, expected one"
            if kinds
            else "the text model has no rotary position embedding (RoPE)"
        )
    _check_type(rope_type)
    if rope_type != "default":
        inv_freq: Tensor = ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"))[0]
        return Rope(inv_freq[None])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotary_dim = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    return Rope((float(rope["rope_theta"]) ** -exponents)[None])


def trained_length(config: PreTrainedConfig) -> int | None:
    """Return the length up to which "dynamic" RoPE is exact; None for other types.

    config: of the text model
    """
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    return int(config.max_position_embeddings) if rope.get("rope_type") == "dynamic" else None


def _check_type(rope_type: str) -> None:
    """Refuse a type of RoPE whose frequencies change with the length."""
    if rope_type not in _FIXED_ROPE_TYPES:
        raise UnsupportedModelError(
            f"RoPE type {rope_type!r}, whose frequencies change with the length; supported:"
            f" {', '.join(_FIXED_ROPE_TYPES)}"
        )


def _distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual.float() - expected.float()).norm() / expected.float().norm())


@torch.no_grad()
def check_rotation(model: PreTrainedModel, rope: Rope) -> None:
    """Check on the model that its keys can be moved.

    Attention must depend on differences of positions alone.

    A few tokens are prefilled at several places, the last of the model's positions among them, which costs nothing, as
    positions are given. In every layer `rotate_keys` must turn the keys of one place into those of another, and queries
    alike. A self-check at retention 1.0 cannot see this for plain RoPE: nothing is dropped and the rotation is by zero.

    Raises UnsupportedModelError for learned absolute positions, rotary conventions that are not known, queries scaled
    by their absolute position, frequencies that change with the length, and layers that keep no keys.
    """
    tokens = 8
    here = _prefill(model, torch.arange(tokens))
    for start in sorted({61, max(61, last_position(model.config) + 1 - tokens)}):
        there = _prefill(model, torch.arange(start, start + tokens))
        for layer, (before, after) in enumerate(zip(here, there, strict=True)):
            for what, was, is_now in (("keys", before.keys, after.keys), ("queries", before.queries, after.queries)):
                if was is None or is_now is None:
                    raise UnsupportedModelError(f"layer {layer} has no {what}: it is not an ordinary attention layer")
                check_moved(f"layer {layer}: {what}", was, is_now, rope.of_layer(layer), start)


def check_moved(what: str, before: Tensor, after: Tensor, rope: Rope, delta: int) -> None:
    """Check that `after` is `before`, rotated by `delta` positions.

    what: they are, for people
    before, after: [..., tokens, head_dim], keys or queries after RoPE
    rope: of the layer

    Raises UnsupportedModelError when it is not.
    """
    tolerance = _moved_tolerance(before.dtype, delta)
    expected, actual = rotate_keys(before, rope, delta).float(), after.float()
    grown = float(actual.norm() / expected.norm())
    error = float((grown * expected - actual).norm() / actual.norm())
    if not error < tolerance:
        raise UnsupportedModelError(
            f"{what} moved by {delta} positions are off by {error:.0%} of their length; its positions are not"
            " rotary (RoPE) in a way that is known"
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

    def observe(self, layer: int, call: AttentionCall) -> Tensor | None:
        """See `AttentionHook.observe`."""
        self.by_layer[layer] = call.query
        return call.mask


def _prefill(model: PreTrainedModel, positions: Tensor) -> list[_Layer]:
    """Prefill tokens 0, 1, ... at `positions` [tokens]; return each attention layer."""
    config = model.config.get_text_config()
    cache = empty_cache(config)
    embeddings = model.get_input_embeddings()
    ids = torch.arange(len(positions), device=model.device)[None]
    with _Queries(model) as queries:
        _text_model(model)(
            inputs_embeds=embeddings(ids),
            position_ids=positions[None].to(model.device),
            past_key_values=cache,
            use_cache=True,
        )
    layers = [cache.layers[layer] for layer in attention_layers(config) if layer < len(cache.layers)]
    return [_Layer(queries.by_layer.get(i), getattr(layer, "keys", None)) for i, layer in enumerate(layers)]
