"""Run forward passes with explicit positions, one sequence at a time.

Invariant: positions are always given by the caller, never taken from state that the model keeps between calls (Qwen-VL
models keep `rope_deltas`), since passes of different requests take turns on one model.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lookonce_pruning import (
    attention_layers,
    count_recurrent_layers,
    empty_cache,
    find_rope,
    find_window,
    last_position,
    set_states,
    stack_states,
)
from lookonce_server.engines.prefix import TextKV, TextSpan
from lookonce_server.engines.prompts import Prompt
from lookonce_server.errors import ContextLostError


class State(NamedTuple):
    """A sequence in work."""

    cache: DynamicCache
    next_position: int  # RoPE position of the next token
    logits: Tensor  # [vocabulary], of the token to come


class ModelRunner:
    """Run one model.

    Args:
        model: of transformers, in evaluation mode.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device = model.device  # the model's own property looks through its parameters each time
        self._dtype = model.dtype
        self.rope = find_rope(model)
        config = model.config.get_text_config()
        self._text_config = config
        self.num_layers = len(attention_layers(config))  # those with attention
        self.num_recurrent_layers = count_recurrent_layers(config)
        self.max_tokens = last_position(config) + 1
        # Tokens that every layer sees at once.
        self.window = min(find_window(config) or self.max_tokens, self.max_tokens)
        rope = getattr(config, "rope_parameters", None) or {}
        self._position_rows = 3 if "mrope_section" in rope else 1
        self._state_forms = self._find_state_forms()  # by name

    @torch.inference_mode()
    def prefill(self, prompt: Prompt, positions: Tensor | None = None) -> State:
        """Run a whole prompt, its images included.

        Args:
            prompt: to run.
            positions: of its tokens, see `positions`; None: the model's own, which alone tell the next one.
        """
        has_image = len(prompt.image_positions) > 0
        inputs = {name: self._placed(value) for name, value in prompt.inputs.items()}
        inputs.pop("attention_mask", None)  # all ones: a batch of one has no padding
        if not has_image:
            inputs = {"input_ids": inputs["input_ids"], "position_ids": self.positions(0, prompt.tokens)}
        if positions is not None:
            inputs["position_ids"] = positions
        cache = empty_cache(self._text_config)
        output = self.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return State(cache, prompt.tokens + self._rope_delta(has_image), output.logits[0, -1])

    def prefill_text(self, ids: list[int]) -> State:
        """Run a text of at least one token."""
        return self.prefill(Prompt({"input_ids": torch.tensor([ids])}, torch.empty(0, dtype=torch.int64), (0, 0)))

    @torch.inference_mode()
    def extend(self, state_cache: DynamicCache, next_position: int, ids: Tensor) -> State:
        """Run `ids` `[1, tokens]` after the tokens in a cache."""
        count = ids.shape[1]
        output = self.model(
            input_ids=ids.to(self.device),
            position_ids=self.positions(next_position, count),
            past_key_values=state_cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return State(state_cache, next_position + count, output.logits[0, -1])

    def cache_of(self, keys: Tensor, values: Tensor, states: Mapping[str, Tensor]) -> DynamicCache:
        """Build a cache.

        Args:
            keys: of the attention layers, `[layers, kv_heads, tokens, head_dim]`.
            values: like keys.
            states: of the recurrent layers, see `states_of`. They are copied: the cache overwrites its own.

        Raises:
            ContextLostError: these are not the states of this model.
        """
        if (forms := _forms(states)) != self._state_forms:
            raise ContextLostError(
                f"The context has the recurrent states {forms}, where this model has {self._state_forms}."
            )
        cache = empty_cache(self._text_config)
        for number, layer in enumerate(attention_layers(self._text_config)):
            cache.update(self._placed(keys[number])[None], self._placed(values[number])[None], layer)
        set_states(
            cache, self._text_config, {name: state.to(self.device) for name, state in states.items()}
        )  # in their own dtype: sums are float32 in every model
        return cache

    def states_of(self, cache: DynamicCache) -> dict[str, Tensor]:
        """Copy the states of a cache's recurrent layers, `[layers, ...]`, to the CPU.

        They are those after all tokens that were run, and there are none where all layers have attention.
        """
        return {name: state.cpu() for name, state in stack_states(cache, self._text_config).items()}

    def text_kv(self, span: TextSpan) -> TextKV:
        """Compute a span and the text before it, on the model's device; maybe no tokens."""
        ids = [*span.before, *span.ids]
        # Of no tokens there is no pass: take the shape from one.
        return TextKV(*stacked(self.prefill_text(ids or [0]).cache, len(ids)))

    @property
    def state_bytes(self) -> int:
        """Number of bytes of all states of a context."""
        return sum(prod(shape) * dtype.itemsize for dtype, shape in self._state_forms.values())

    def _find_state_forms(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Run a token to see which states the model keeps."""
        if not self.num_recurrent_layers:
            return {}
        return _forms(self.states_of(self.prefill_text([0]).cache))

    def _placed(self, tensor: Tensor) -> Tensor:
        dtype = self._dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.device, dtype)

    def positions(self, first: int, count: int) -> Tensor:
        """Return RoPE positions of text: `[1, count]`, or `[3, 1, count]` in M-RoPE."""
        positions = torch.arange(first, first + count, device=self.device)
        return positions.expand(self._position_rows, 1, -1) if self._position_rows > 1 else positions[None]

    def _rope_delta(self, has_image: bool) -> int:
        """Return the distance of the next position from the token count.

        M-RoPE counts an image's rows and columns, not its tokens.
        """
        deltas: Any = getattr(self.model.base_model, "rope_deltas", None)
        return int(deltas[0]) if has_image and self._position_rows > 1 and deltas is not None else 0


def _forms(states: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (state.dtype, tuple(state.shape)) for name, state in states.items()}


def stacked(cache: DynamicCache, length: int) -> tuple[Tensor, Tensor]:
    """Return the first keys and values of a cache's attention layers, `[layers, kv_heads, length, dim]`."""
    layers: list[Any] = [layer for layer in cache.layers if hasattr(layer, "keys")]  # not those that are recurrent
    return (
        torch.stack([layer.keys[0, :, :length] for layer in layers]),
        torch.stack([layer.values[0, :, :length] for layer in layers]),
    )
