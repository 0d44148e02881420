"""Run forward passes with explicit positions, one sequence at a time.

Invariant: positions are always given by the caller, never taken from state that the model keeps between calls (Qwen-VL
models keep `rope_deltas`), since passes of different requests take turns on one model.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lookonce_pruning import find_rope, find_window, last_position
from lookonce_server.engines.prefix import TextKV, TextSpan
from lookonce_server.engines.prompts import Prompt


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
        self.rope = find_rope(model)
        config = model.config.get_text_config()
        self.num_layers: int = config.num_hidden_layers
        self.max_tokens = last_position(config) + 1
        # Tokens that every layer sees at once.
        self.window = min(find_window(config) or self.max_tokens, self.max_tokens)
        rope = getattr(config, "rope_parameters", None) or {}
        self._position_rows = 3 if "mrope_section" in rope else 1

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
        cache = DynamicCache()
        output = self.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return State(cache, prompt.tokens + self._rope_delta(has_image), output.logits[0, -1])

    @torch.inference_mode()
    def extend(self, state_cache: DynamicCache, next_position: int, ids: Tensor) -> State:
        """Run `ids` `[1, tokens]` after the tokens in a cache."""
        count = ids.shape[1]
        output = self.model(
            input_ids=ids.to(self.model.device),
            position_ids=self.positions(next_position, count),
            past_key_values=state_cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return State(state_cache, next_position + count, output.logits[0, -1])

    def cache_of(self, keys: Tensor, values: Tensor) -> DynamicCache:
        """Build a cache of keys and values, `[layers, kv_heads, tokens, head_dim]`."""
        cache = DynamicCache()
        for layer in range(self.num_layers):
            cache.update(self._placed(keys[layer])[None], self._placed(values[layer])[None], layer)
        return cache

    def text_kv(self, span: TextSpan) -> TextKV:
        """Compute a span and the text before it, on the model's device; maybe no tokens."""
        ids = [*span.before, *span.ids]
        # Of no tokens there is no pass: take the shape from one.
        text = Prompt({"input_ids": torch.tensor([ids or [0]])}, torch.empty(0, dtype=torch.int64), (0, 0))
        return TextKV(*stacked(self.prefill(text).cache, len(ids)))

    def _placed(self, tensor: Tensor) -> Tensor:
        dtype = self.model.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.model.device, dtype)

    def positions(self, first: int, count: int) -> Tensor:
        """Return RoPE positions of text: `[1, count]`, or `[3, 1, count]` in M-RoPE."""
        positions = torch.arange(first, first + count, device=self.model.device)
        return positions.expand(self._position_rows, 1, -1) if self._position_rows > 1 else positions[None]

    def _rope_delta(self, has_image: bool) -> int:
        """Return the distance of the next position from the token count.

        M-RoPE counts an image's rows and columns, not its tokens.
        """
        deltas: Any = getattr(self.model.base_model, "rope_deltas", None)
        return int(deltas[0]) if has_image and self._position_rows > 1 and deltas is not None else 0


def stacked(cache: DynamicCache, length: int) -> tuple[Tensor, Tensor]:
    """Return a cache's first keys and values, `[layers, kv_heads, length, dim]`."""
    layers: list[Any] = cache.layers
    return (
        torch.stack([layer.keys[0, :, :length] for layer in layers]),
        torch.stack([layer.values[0, :, :length] for layer in layers]),
    )
