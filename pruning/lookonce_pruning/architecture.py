"""Tell attention layers from recurrent ones, and refuse caches that a context cannot hold.

A recurrent layer keeps no keys and values: it keeps a state, into which every token has been added, and which no token
can be taken out of. So all that is done with keys and values is done with those of the attention layers. They are
counted by themselves, and a window of layers is one of attention layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig

from lookonce_pruning.errors import UnsupportedModelError

# Layer types of transformers' configurations that keep keys and values of every token, and no more.
_ATTENTION = ("full_attention", "sliding_attention", "chunked_attention", "attention")
# Those that keep a state and nothing else: linear attention, and short convolutions.
_RECURRENT = ("linear_attention", "conv")


def check_architecture(config: PreTrainedConfig) -> None:
    """Refuse a text model whose cache is more than keys and values of each attention layer.

    Recurrent layers, which keep a state in their place, are accepted; see `count_recurrent_layers`.

    config: of the text model

    Raises UnsupportedModelError for layers that keep both or something else, recurrent layers of two kinds or beside
    sliding windows, multi-head latent attention, layers that share keys, and layers with heads of different sizes.
    """
    types: list[str] = getattr(config, "layer_types", None) or []
    others = Counter(kind for kind in types if kind not in (*_ATTENTION, *_RECURRENT))
    if others:
        raise UnsupportedModelError(
            f"{others.total()} of its {len(types)} layers ({', '.join(others)}) keep something else than the keys and"
            " values of each token, which a context cannot hold"
        )
    _check_hybrid(config)
    if getattr(config, "kv_lora_rank", None):
        raise UnsupportedModelError(
            "it uses multi-head latent attention (MLA): its cache has latent vectors in place of keys and values"
        )
    if shared := getattr(config, "num_kv_shared_layers", None):
        raise UnsupportedModelError(
            f"its last {shared} layers have no keys of their own and use those of earlier layers (num_kv_shared_layers)"
        )
    sizes = {size for layer in config.per_layer_config if (size := getattr(layer, "head_dim", None)) is not None}
    if len(sizes) > 1:
        raise UnsupportedModelError(
            f"its layers have heads of {' and '.join(map(str, sorted(sizes)))} dimensions, and a context holds one size"
        )


def _check_hybrid(config: PreTrainedConfig) -> None:
    """Refuse a mixture of layers whose states are not all of one form."""
    recurrent = count_recurrent_layers(config)
    if not recurrent:
        return
    layers: int = config.num_hidden_layers
    if recurrent == layers:
        raise UnsupportedModelError("all of its layers are recurrent: none has attention by which tokens are chosen")
    if len(kinds := set(config.layer_types) - {"full_attention"}) > 1:
        raise UnsupportedModelError(
            f"{recurrent} of its {layers} layers are recurrent: a context holds one kind of such layers beside full"
            f" attention, not {' and '.join(sorted(kinds))}"
        )
    if (count := getattr(config, "number_of_conv_states", 1)) != 1:
        raise UnsupportedModelError(f"its recurrent layers keep {count} states each, of which a context holds one")


def attention_layers(config: PreTrainedConfig) -> tuple[int, ...]:
    """Return the indices of the layers that keep keys and values, ascending.

    config: of the text model
    """
    types = getattr(config, "layer_types", None)
    layers = range(config.num_hidden_layers)
    return tuple(layers if types is None else (layer for layer in layers if types[layer] not in _RECURRENT))


def count_recurrent_layers(config: PreTrainedConfig) -> int:
    """Count the layers that keep a state in place of keys and values.

    config: of the text model
    """
    return int(config.num_hidden_layers) - len(attention_layers(config))


def empty_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return a cache in which each layer keeps what it needs, keys and values of all tokens.

    config: of the text model
    """
    if not count_recurrent_layers(config):
        return DynamicCache()  # that of a configuration lets go of what left a sliding window
    return DynamicCache(config=config)


def stack_states(cache: DynamicCache, config: PreTrainedConfig) -> dict[str, Tensor]:
    """Copy the states of a cache's recurrent layers, by name: `[recurrent layers, ...]`.

    "conv" are the last inputs of convolutions, "recurrent" the sums of linear attention. There are none where there are
    no such layers.

    cache: of one sequence, see `empty_cache`
    config: of the text model
    """
    kinds: dict[str, list[Tensor]] = {}
    layers: list[Any] = cache.layers
    for layer in _recurrent_layers(config):
        for name, states in (("conv", layers[layer].conv_states), ("recurrent", layers[layer].recurrent_states)):
            if states[0] is not None:
                kinds.setdefault(name, []).append(states[0][0])
    return {name: torch.stack(states) for name, states in kinds.items()}


def set_states(cache: DynamicCache, config: PreTrainedConfig, states: Mapping[str, Tensor]) -> None:
    """Give the recurrent layers of a new cache copies of these states, which it will overwrite.

    cache: see `empty_cache`
    config: of the text model
    states: see `stack_states`; on the cache's device
    """
    for at, layer in enumerate(_recurrent_layers(config)):
        if "conv" in states:
            cache.update_conv_state(states["conv"][at, None], layer)
        if "recurrent" in states:
            cache.update_recurrent_state(states["recurrent"][at, None], layer)


def _recurrent_layers(config: PreTrainedConfig) -> list[int]:
    with_keys = attention_layers(config)
    return [layer for layer in range(config.num_hidden_layers) if layer not in with_keys]


def find_window(config: PreTrainedConfig) -> int | None:
    """Return the length of the sliding attention window, None if no layer has one.

    config: of the text model
    """
    window: int | None = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    return window if window and (types is None or "sliding_attention" in types) else None
