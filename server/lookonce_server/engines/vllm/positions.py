"""Try vLLM's layers at the last positions, by calling them.

No prompt of the self-check arrives there.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookonce_pruning import UnsupportedModelError, check_moved, fit_rope, rope_of_config

_log = logging.getLogger(__name__)
_TOKENS = 8


class _AttentionCalledError(Exception):
    """An attention layer was called; the rest does not matter."""


class _Seen(NamedTuple):
    """The queries and keys of an attention layer, [heads, tokens, head_dim]."""

    queries: Tensor
    keys: Tensor


@torch.inference_mode()
def check_positions(model: Any, layers: Sequence[Any], *, config: Any, last: int, uses_mrope: bool) -> None:
    """Check that attention depends on differences of positions alone.

    Each layer's projections and rotation are run on the same few made-up hidden states at two places, without its
    attention: its queries and keys must be turned copies. Where a layer cannot be run by itself, what the configuration
    says of it must do.

    Args:
        model: vLLM's.
        layers: vLLM's attention layers, in the model's order.
        config: the model's configuration, of transformers.
        last: the last position that a token may have.
        uses_mrope: whether positions have several components.

    Raises:
        UnsupportedModelError: it does not; the message says what depends on absolute positions.
    """
    text = config.get_text_config()
    check_scaling(text, last)
    inv_freq = rope_of_config(text).inv_freq[0]
    delta = last + 1 - _TOKENS
    if delta <= 0:
        return
    parameter = next(model.parameters())
    noise = torch.randn(_TOKENS, text.hidden_size, generator=torch.Generator().manual_seed(0))
    hidden = noise.to(parameter.device, _dtype(model))
    near = torch.arange(_TOKENS, device=parameter.device)
    for index, layer in enumerate(layers):
        here, there = (_seen(model, layer, hidden, _rows(at, uses_mrope)) for at in (near, near + delta))
        if here is None or there is None:
            _log.warning("layer %d cannot be run by itself: its last positions are not tried", index)
            continue
        rope = fit_rope([inv_freq], [here.keys], [there.keys], delta)
        check_moved(f"layer {index}: keys", here.keys, there.keys, rope, delta)
        check_moved(f"layer {index}: queries", here.queries, there.queries, rope, delta)


def check_scaling(config: Any, last: int) -> None:
    """Refuse a configuration by which queries are scaled by their absolute position.

    Args:
        config: of the text model.
        last: the last position that a token may have; a scale that begins after it is none.

    Raises:
        UnsupportedModelError: queries are scaled.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    mistral = getattr(config, "llama_4_scaling", None) or {}  # in Mistral's own format
    begins = {
        "llama_4_scaling_beta": rope.get("llama_4_scaling_beta") and rope.get("original_max_position_embeddings", 0),
        "llama_4_scaling": mistral.get("beta") and mistral.get("original_max_position_embeddings", 0),
        "attn_temperature_tuning": getattr(config, "attn_temperature_tuning", None) and config.floor_scale,
    }
    for name, begin in begins.items():
        if begin is not None and begin is not False and begin <= last:
            raise UnsupportedModelError(
                f"its configuration scales queries by their absolute position from {begin} on ({name}); up to there it"
                f" can be served: --vllm-max-model-len {begin}"
            )


def _seen(model: Any, layer: Any, hidden: Tensor, positions: Tensor) -> _Seen | None:
    """Run a layer up to its attention; None if it needs a whole forward pass."""
    calls: list[_Seen] = []

    def see(_: Any, arguments: tuple[Tensor, ...]) -> None:
        query, key = (part.reshape(len(hidden), -1, layer.head_size).transpose(0, 1).clone() for part in arguments[:2])
        calls.append(_Seen(query, key))
        raise _AttentionCalledError

    handle = layer.register_forward_pre_hook(see)
    try:
        model.get_submodule(layer.layer_name.rpartition(".")[0])(positions=positions, hidden_states=hidden.clone())
    except _AttentionCalledError:
        return calls[0]
    except Exception as error:  # its own arguments, or a state that vLLM sets around a forward pass
        _log.info("%s: %s", layer.layer_name, error)
    finally:
        handle.remove()
    return None


def _rows(positions: Tensor, uses_mrope: bool) -> Tensor:
    """Return positions of text tokens as the model takes them."""
    return positions.expand(3, -1) if uses_mrope else positions


def _dtype(model: Any) -> torch.dtype:
    """Return the dtype of the hidden states: weights may have fewer bits."""
    dtype: torch.dtype = next((p.dtype for n, p in model.named_parameters() if "norm" in n), torch.get_default_dtype())
    return dtype
