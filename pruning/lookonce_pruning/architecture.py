"""Refuse text models whose caches a context cannot hold, by their configuration."""

from __future__ import annotations

from collections import Counter

from transformers import PreTrainedConfig

from lookonce_pruning.errors import UnsupportedModelError

# Layer types of transformers' configurations that keep keys and values of every token, and no more.
_ATTENTION = ("full_attention", "sliding_attention", "chunked_attention", "attention")
_RECURRENT = ("linear_attention", "conv", "mamba", "hybrid", "hybrid_sliding")


def check_architecture(config: PreTrainedConfig) -> None:
    """Refuse a text model whose cache is more than keys and values of each layer.

    config: of the text model

    Raises UnsupportedModelError for recurrent layers, multi-head latent attention, layers that share keys, and layers
    with heads of different sizes.
    """
    types: list[str] = getattr(config, "layer_types", None) or []
    others = Counter(kind for kind in types if kind not in _ATTENTION)
    if recurrent := sum(others[kind] for kind in _RECURRENT):
        raise UnsupportedModelError(
            f"{recurrent} of its {len(types)} layers are recurrent ({', '.join(others)}): they keep one state of all"
            " tokens in place of keys and values, which a context cannot hold"
        )
    if others:
        raise UnsupportedModelError(
            f"{others.total()} of its {len(types)} layers ({', '.join(others)}) keep something else than the keys and"
            " values of each token, which a context cannot hold"
        )
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


def find_window(config: PreTrainedConfig) -> int | None:
    """Return the length of the sliding attention window, None if no layer has one.

    config: of the text model
    """
    window: int | None = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    return window if window and (types is None or "sliding_attention" in types) else None
