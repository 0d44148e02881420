"""Show transformers' SDPA attention to a hook, through `AttentionInterface`.

Each attention layer looks its function up by its config's `_attn_implementation` at every call. Setting that name on
the text model's config redirects the text layers alone; the vision tower has a config of its own and stays as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lookonce_pruning.architecture import attention_layers
from lookonce_pruning.errors import RecordingError, UnsupportedModelError

IMPLEMENTATION = "lookonce"
# What a layer asks for beyond softmax(q k^T * scaling) over all earlier tokens.
_UNSUPPORTED = {
    "softcap": "soft-capped attention logits",
    "s_aux": "attention sinks",
    "position_bias": "an additive position bias",
}


class AttentionCall(NamedTuple):
    """What a layer hands to its attention function."""

    query: Tensor  # [batch, heads, new, head_dim], after RoPE
    key: Tensor  # [batch, kv_heads, past + new, head_dim], after RoPE
    mask: Tensor | None  # as `scaled_dot_product_attention` takes it; None: causal
    scaling: float | None  # of the logits; None: that of the head size
    window: int | None = None  # tokens that a row sees, itself among them; None: all before it


class AttentionHook(Protocol):
    """Observe the attention of each text layer, and mask more of it."""

    def observe(self, layer: int, call: AttentionCall) -> Tensor | None:
        """Take a call of a layer, and return the mask that it uses.

        Returns the mask that the layer uses: the one given, or another one that `scaled_dot_product_attention` takes.
        """


class _Observer(NamedTuple):
    """A hook, and the number that it knows each layer of the model by."""

    hook: AttentionHook
    numbers: Mapping[int, int]


_observer: ContextVar[_Observer | None] = ContextVar("lookonce_attention_observer", default=None)


def observed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Run transformers' SDPA attention, shown to and masked by the current hook.

    Raises UnsupportedModelError when a layer being observed asks for more than softmax attention.
    """
    observer = _observer.get()
    if observer is not None:
        for option, meaning in _UNSUPPORTED.items():
            if options.get(option) is not None:
                raise UnsupportedModelError(f"{type(module).__name__} uses {meaning} ({option}={options[option]!r})")
        layer = observer.numbers[module.layer_idx]  # type: ignore[index]
        call = AttentionCall(query, key, attention_mask, options.get("scaling"), options.get("sliding_window"))
        attention_mask = observer.hook.observe(layer, call)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def boolean_mask(attention_mask: Tensor | None, new: int, total: int, device: torch.device) -> Tensor:
    """Return a mask as booleans, True may be seen: [1 or batch, 1, new, total]."""
    if attention_mask is None:
        return torch.ones(new, total, dtype=torch.bool, device=device).tril(total - new)[None, None]
    return attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0


@contextmanager
def observed(config: PreTrainedConfig, observer: AttentionHook) -> Iterator[None]:
    """Show the attention calls of the text layers with `config` to a hook.

    Layers are counted from 0, recurrent ones left out; see `attention_layers`.
    Only calls made in the thread or task that entered the block are shown; others get plain SDPA meanwhile.
    Raises RecordingError when the model is being observed already: one observer a model at a time.
    """
    previous = config._attn_implementation
    if previous == IMPLEMENTATION:
        raise RecordingError("the model's attention is being observed already; one describe pass at a time")
    AttentionInterface.register(IMPLEMENTATION, observed_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    numbers = {layer: number for number, layer in enumerate(attention_layers(config))}
    token = _observer.set(_Observer(observer, numbers))
    config._attn_implementation = IMPLEMENTATION
    try:
        yield
    finally:
        config._attn_implementation = previous
        _observer.reset(token)


class Observing(ABC):
    """Observe a model's text layers inside a block; see `observed`.

    model: any `*ForConditionalGeneration`
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._observed = model.config.get_text_config()
        self._stack = ExitStack()

    @abstractmethod
    def observe(self, layer: int, call: AttentionCall) -> Tensor | None:
        """See `AttentionHook.observe`."""

    def __enter__(self) -> Self:
        self._stack.enter_context(observed(self._observed, self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
