"""Refuse models by looking at vLLM's layers."""

from collections.abc import Sequence
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig

# Attributes of vLLM's attention implementations, and the values that mean "not used".
_UNSUPPORTED = {
    "sliding_window": ("a sliding attention window", (None, -1, (-1, -1))),
    "logits_soft_cap": ("soft-capped attention logits", (None, 0)),
    "alibi_slopes": ("ALiBi position biases", (None,)),
    "sinks": ("attention sinks", (None,)),
    "kv_sharing_target_layer_name": ("layers that share another layer's keys", (None,)),
}


def attention_problems(config: VllmConfig, cache: KVCacheConfig, layers: Sequence[Any]) -> list[str]:
    """List the reasons against contexts, as sentences; empty if there are none."""
    parallel = config.parallel_config
    problems = []
    kinds = {type(group.kv_cache_spec) for group in cache.kv_cache_groups}
    if len(cache.kv_cache_groups) != 1 or kinds != {FullAttentionSpec}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        problems.append(
            f"Its KV cache has {len(cache.kv_cache_groups)} groups ({names}); one of full attention is needed."
        )
    if config.model_config.is_mm_prefix_lm:
        problems.append(
            "Its image tokens see each other, or its prompt is a prefix-LM's, which not every attention backend of vLLM"
            " computes."
        )
    if parallel.pipeline_parallel_size > 1:
        problems.append("Pipeline parallelism is not supported: each worker must hold every layer.")
    if parallel.decode_context_parallel_size > 1:
        problems.append("Context parallelism is not supported: each worker must hold every token.")
    found: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        for meaning in _unsupported(layer.impl):
            found.setdefault(meaning, []).append(index)
        if not hasattr(layer.impl, "do_kv_cache_update"):
            backend = type(layer.impl).__name__
            found.setdefault(f"an attention backend, {backend}, that cannot be written to", []).append(index)
    return problems + [f"{_layers(indices, len(layers))} {meaning}." for meaning, indices in found.items()]


def _layers(indices: list[int], count: int) -> str:
    """Return the beginning of a sentence about layers, however many they are."""
    if len(indices) == 1:
        return f"Layer {indices[0]} has"
    return f"{len(indices)} of {count} layers, the first of them layer {indices[0]}, have"


def has_class(architecture: str) -> bool:
    """Return whether this vLLM has a model's class."""
    from vllm.model_executor.models import ModelRegistry

    return architecture in ModelRegistry.get_supported_archs()


def _unsupported(implementation: Any) -> list[str]:
    meanings = []
    for name, (meaning, unused) in _UNSUPPORTED.items():
        value = getattr(implementation, name, None)
        if not any(value is other or value == other for other in unused):
            meanings.append(meaning)
    return meanings
